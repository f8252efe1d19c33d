"""What kdbench costs, measured by ``scripts/bench NAME``. Not part of the package; asserts no time unless asked."""
