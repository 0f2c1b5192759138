"""From candidate rows to kept ones: steps that accept or refuse, the account, the split."""
