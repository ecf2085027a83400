"""Reports for people: terminal tables, figures, the HTML page, the model card."""
