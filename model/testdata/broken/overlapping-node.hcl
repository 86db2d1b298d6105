ids "ports" {
  nodes = { m1 = "3900-4100" }
}
