ids "ports" {
  private = "3500-4500"
}
