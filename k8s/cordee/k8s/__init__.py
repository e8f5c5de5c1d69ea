"""What is Kubernetes' own: pods from jobs, the launcher, the custom resource and its controller, leases."""
