"""What is measured of a trained network: accuracy, calibration, fidelity to its teachers, robustness, cost.

Nothing is imported here, so that the report can use what needs no torch.
"""
