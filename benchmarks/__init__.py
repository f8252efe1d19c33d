"""What kdbench costs, measured: ``scripts/bench NAME``. Not part of the package; asserts nothing about time unless asked."""
