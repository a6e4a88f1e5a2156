"""Random files, messages and arguments, thrown at whatever reads what strangers wrote."""
