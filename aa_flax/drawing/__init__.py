"""What people look at: what a network costs, what it attends to, curves."""
