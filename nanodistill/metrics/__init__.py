"""What makes an output right: a score in 0..1 for each row. Shared by training and evaluation.

metric_selection    which metric a dataset calls for
row_metrics         exact match, labels, numbers, text similarity, the user's own function
field_accuracy      JSON outputs, field by field
output_parser       a model's text becomes thinking and output
"""
