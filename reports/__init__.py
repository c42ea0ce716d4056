"""What people and programs read afterwards: manifest.json, report.html and the terminal summary."""
