"""What clients rely on that were cut off: pages with resume.js, and what follows its protocol."""
