"""The verbs: what the commands do, as functions that return what they found."""
