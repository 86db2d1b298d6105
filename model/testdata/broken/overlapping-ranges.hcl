ids "ports" {
  private = "8000-8999"
  shared  = "8500-9500"
}
