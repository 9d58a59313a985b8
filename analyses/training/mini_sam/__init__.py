"""mini-sam: a small SamModel, trained on the masks of scenes with point and box prompts."""
