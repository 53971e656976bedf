"""Where pairs come from: folders, tables, WebDataset tars, and the embedded data set."""
