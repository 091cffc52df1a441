"""`suggest`: where annotating next pays most."""
