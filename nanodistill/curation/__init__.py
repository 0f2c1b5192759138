"""From candidate rows to kept ones: filters, duplicates, labels, votes, the split."""
