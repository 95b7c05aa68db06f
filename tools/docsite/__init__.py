"""What makes and checks the documentation: its blocks of code, the pages that are generated, the outputs it shows."""
