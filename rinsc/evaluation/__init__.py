"""How good a trained model is: at each number of rounds, against another, in tasks."""
