node "m1" {
  propertis = { zone = "a" }
  properties = { name = "x", zone = ["a"] }
  container "postgresql-database" {
    setings = {}
  }
}
