ids "port" {
  private = "8000-8999"
}
