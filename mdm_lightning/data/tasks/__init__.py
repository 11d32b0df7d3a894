"""Problems with responses that are checked by rule, and laws small enough to enumerate."""
