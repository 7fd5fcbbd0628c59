"""Tables and pictures for people: the cost of a network, what it attends to, and learning curves."""
