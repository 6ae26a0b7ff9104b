"""What stands around a call: layers around a generation, and the guard around calls to outside services."""
