"""Problems with responses that are checked by rule, and distributions small enough to enumerate."""
