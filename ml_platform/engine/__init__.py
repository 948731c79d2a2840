"""Steps, the days they do, and the runners that run them."""
