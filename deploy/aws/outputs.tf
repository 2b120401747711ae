output "store_url" {
  description = "For --store, LBCTL_STORE_URL or store.url"
  value       = "dynamodb://${var.table}/${var.prefix}?region=${data.aws_region.current.name}"
}

output "daemon_policy_arn" {
  description = "For the roles of discover, sync-haproxy, register and serve"
  value       = aws_iam_policy.daemon.arn
}

output "reader_policy_arn" {
  description = "For the roles of those who only look"
  value       = aws_iam_policy.reader.arn
}

output "init_policy_arn" {
  description = "For whoever runs lbctl store init"
  value       = aws_iam_policy.init.arn
}

output "asg_policy_arn" {
  description = "For the role of discover where it looks at Auto Scaling groups"
  value       = aws_iam_policy.asg.arn
}

output "hsdo_discover_policy_arn" {
  description = "For the role of discover, in addition to its own, where table-layout is hsdo"
  value       = one(aws_iam_policy.hsdo_discover[*].arn)
}

output "hsdo_sync_policy_arn" {
  description = "For the roles of sync-haproxy, in addition to their own, where table-layout is hsdo"
  value       = one(aws_iam_policy.hsdo_sync[*].arn)
}
