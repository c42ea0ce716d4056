"""What a model is: headers, graphs and configs only, each format behind its pre-flight validator."""
