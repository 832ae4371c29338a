resource "helm_release" "dapr" {
  name             = "dapr"
  namespace        = "dapr-system"
  create_namespace = true
  repository       = "https://charts.example.com"
  chart            = "dapr"
  version          = "1.18.3"
  wait             = true
  values           = [file("${path.module}/values.yaml")]
}
