"""The small base model that ships with fedsim, and the script that makes it (``pretrain``)."""
