"""How sure a number is: intervals, permutation tests, null masks, paired differences. Arrays in, tables out."""
