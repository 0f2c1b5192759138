"""What makes an output right: a score from 0 to 1 for each row, for training and evaluation.

metric_selection    which metric a dataset calls for
row_metrics         exact match, labels, JSON fields, numbers, text similarity, your own function
output_parser       from a model's text to thinking and output
"""
