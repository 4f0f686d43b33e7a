"""Where this library meets others: scikit-learn's estimators."""
