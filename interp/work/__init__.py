"""Long work in batches that goes on where it was: how a data set is cut, where batches are kept, under which keys."""
