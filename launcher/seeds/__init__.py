"""The seed documents' figures beside what comes out when they are computed again."""
