package deploy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestReferences: whatever a document names is there.
func TestReferences(t *testing.T) {
	w := load(t)
	var found problems
	if w.objects, found = decode(w.files); len(found) > 0 {
		t.Fatal(found)
	}
	for _, c := range []check{
		{"services", checkServices, []spoilt{
			{"service-clusterip.yaml", "rhumb-agent}", "rhumb-agnet}", "selects no workload"},
			{"service-clusterip.yaml", "selector: {app.kubernetes.io/name: rhumb-agent}", "", "has no selector"},
			{"service-clusterip.yaml", "targetPort: gateway", "targetPort: gatewy", "has no TCP port gatewy"},
			{"service-loadbalancer.yaml", "targetPort: gateway", "targetPort: 8080", "has no TCP port 8080"},
			{"director.yaml", "targetPort: dns-udp, protocol: UDP", "targetPort: dns-udp", "has no TCP port dns-udp"},
			{"director.yaml", "port: 53, targetPort: dns-udp", "port: 53, targetPort: gossip", "has no UDP port gossip"},
			{"service-nodeport.yaml", "30800", "8000", "out of the range"},
			{"triton.yaml", "clusterIP: None", "clusterIP: None\n  type: NodePort", "is headless and a NodePort"},
		}},
		{"selectors", checkSelectors, []spoilt{
			{"agent.yaml", "  selector:\n    matchLabels: {app.kubernetes.io/name: rhumb-agent}\n  template", "  selector:\n    matchLabels: {app.kubernetes.io/name: other}\n  template", "does not select its own pods"},
			{"triton.yaml", "  maxUnavailable: 1\n  selector:\n    matchLabels: {app.kubernetes.io/name: triton,", "  maxUnavailable: 1\n  selector:\n    matchLabels: {app.kubernetes.io/name: tritom,", "PodDisruptionBudget triton-llama: selects no workload"},
			{"networkpolicy.yaml", "podSelector:\n            matchLabels: {app.kubernetes.io/name: rhumb-agent}", "podSelector:\n            matchLabels: {app.kubernetes.io/name: rhumb}", "NetworkPolicy triton: a peer selects no workload"},
			{"networkpolicy.yaml", "    matchLabels: {app.kubernetes.io/name: triton}", "    matchLabels: {app.kubernetes.io/name: tritom}", "NetworkPolicy triton: selects no workload"},
			{"networkpolicy.yaml", "port: gossip-udp, protocol: UDP", "port: gossip-udp", "has no TCP port gossip-udp"},
			{"agent.yaml", "labelSelector:\n            matchLabels: {app.kubernetes.io/name: rhumb-agent}", "labelSelector:\n            matchLabels: {app: rhumb-agent}", "spreads over pods that are not its own"},
		}},
		{"backends", checkBackends, []spoilt{
			{"ingress.yaml", "name: triton-inference\n", "name: triton-infer\n", "there is no Service triton-infer"},
			{"ingress.yaml", "number: 8000", "number: 8080", "has no port 8080"},
			{"ingress.yaml", "secretName: inference-tls", "secretName: tls", "README makes no Secret tls"},
			{"ingress.yaml", `"*.route.inference.example.com"]`, `]`, "*.route.inference.example.com has no TLS"},
			{"hpa.yaml", "    name: triton-llama\n", "    name: triton\n", "there is no Deployment triton"},
			{"hpa.yaml", "kind: Deployment", "kind: StatefulSet", "there is no StatefulSet triton-llama"},
			{"director.yaml", "serviceName: rhumb-ns1", "serviceName: rhumb", "there is no Service rhumb"},
		}},
		{"volumes", checkVolumes, []spoilt{
			{"agent.yaml", "configMap: {name: rhumb-agent}", "configMap: {name: rhumb-agents}", "there is no ConfigMap rhumb-agents"},
			{"agent.yaml", "secretName: rhumb-region", "secretName: rhumb-fleet", "README makes no Secret rhumb-fleet"},
			{"triton.yaml", "claimName: triton-models", "claimName: models", "there is no PersistentVolumeClaim models"},
			{"director.yaml", "- {name: state, mountPath", "- {name: stat, mountPath", "mounts stat, which is no volume"},
			{"agent.yaml", "- name: gossip\n          secret", "- name: gossips\n          secret", "mounts gossip, which is no volume"},
			{"agent.yaml", "mountPath: /etc/rhumb/gossip, readOnly", "mountPath: /etc/rhumb/fleet, readOnly", "two mounts at /etc/rhumb/fleet"},
			{"agent.yaml", "mountPath: /etc/rhumb/config, readOnly", "mountPath: /etc/rhumb/config, subPath: x, readOnly", "does not change while the pod runs"},
			{"director.yaml", "        name: state\n", "        name: states\n", "the volume states is mounted nowhere"},
			{"agent.yaml", "serviceAccountName: rhumb-agent", "serviceAccountName: rhumb", "there is no ServiceAccount rhumb"},
		}},
		{"safety", checkSafety, []spoilt{
			{"director.yaml", "      automountServiceAccountToken: false", "", "mounts a token"},
			{"triton.yaml", "      automountServiceAccountToken: false", "      automountServiceAccountToken: true", "mounts a token"},
			{"agent.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "can write its root"},
			{"agent.yaml", "drop: [ALL]", "drop: [NET_RAW]", "keeps capabilities"},
			{"triton.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"},
			{"director.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "may gain privileges"},
			{"triton.yaml", "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "has no seccomp profile"},
			{"triton.yaml", "enableServiceLinks: false", "", "gets variables of every Service"},
		}},
	} {
		c.run(t, w)
	}
}

// selects finds the workloads whose pods a selector matches.
func (w *world) selects(s *metav1.LabelSelector) []workload {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() {
		return nil
	}
	return slices.DeleteFunc(w.workloads(), func(x workload) bool { return !selector.Matches(labels.Set(x.pod.Labels)) })
}

// ports looks for a port, by number or name, in every workload that is selected.
func ports(found *problems, at fmt.Stringer, to []workload, port string, protocol corev1.Protocol) {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	for _, x := range to {
		if _, ok := x.port(port, protocol); !ok {
			found.add(at, "%s has no %s port %s", x.GetName(), protocol, port)
		}
	}
}

func checkServices(w *world) (found problems) {
	for _, o := range w.objects {
		s, ok := o.Object.(*corev1.Service)
		if !ok {
			continue
		}
		if len(s.Spec.Selector) == 0 {
			found.add(o, "has no selector")
			continue
		}
		to := w.selects(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if len(to) == 0 {
			found.add(o, "selects no workload")
		}
		if s.Spec.ClusterIP == corev1.ClusterIPNone && s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP {
			found.add(o, "is headless and a %s", s.Spec.Type)
		}
		for _, p := range s.Spec.Ports {
			target := p.TargetPort.String()
			if target == "0" {
				target = fmt.Sprint(p.Port)
			}
			ports(&found, o, to, target, p.Protocol)
			if p.NodePort != 0 && (p.NodePort < 30000 || p.NodePort > 32767) {
				found.add(o, "node port %d is out of the range of Kubernetes", p.NodePort)
			}
		}
	}
	return found
}

func checkSelectors(w *world) (found problems) {
	for _, x := range w.workloads() {
		own := func(s *metav1.LabelSelector) bool {
			return slices.ContainsFunc(w.selects(s), func(y workload) bool { return y.object == x.object })
		}
		if !own(x.selector) {
			found.add(x, "does not select its own pods")
		}
		for _, c := range x.pod.Spec.TopologySpreadConstraints {
			if !own(c.LabelSelector) {
				found.add(x, "spreads over pods that are not its own")
			}
		}
	}
	for _, o := range w.objects {
		switch t := o.Object.(type) {
		case *policyv1.PodDisruptionBudget:
			if len(w.selects(t.Spec.Selector)) == 0 {
				found.add(o, "selects no workload")
			}
		case *networkingv1.NetworkPolicy:
			to := w.selects(&t.Spec.PodSelector)
			if len(to) == 0 {
				found.add(o, "selects no workload")
			}
			for _, rule := range t.Spec.Ingress {
				for _, p := range rule.Ports {
					protocol := corev1.ProtocolTCP
					if p.Protocol != nil {
						protocol = *p.Protocol
					}
					ports(&found, o, to, p.Port.String(), protocol)
				}
				for _, from := range rule.From {
					if from.PodSelector != nil && len(w.selects(from.PodSelector)) == 0 {
						found.add(o, "a peer selects no workload")
					}
				}
			}
		}
	}
	return found
}

func checkBackends(w *world) (found problems) {
	services := get[*corev1.Service](w)
	for _, o := range w.objects {
		switch t := o.Object.(type) {
		case *networkingv1.Ingress:
			var secured []string
			for _, tls := range t.Spec.TLS {
				secured = append(secured, tls.Hosts...)
				if _, ok := w.secrets[tls.SecretName]; !ok {
					found.add(o, "the README makes no Secret %s", tls.SecretName)
				}
			}
			for _, rule := range t.Spec.Rules {
				if !slices.Contains(secured, rule.Host) {
					found.add(o, "%s has no TLS", rule.Host)
				}
				for _, p := range rule.HTTP.Paths {
					to := p.Backend.Service
					s, ok := services[to.Name]
					if !ok {
						found.add(o, "there is no Service %s", to.Name)
					} else if !slices.ContainsFunc(s.Spec.Ports, func(x corev1.ServicePort) bool {
						return x.Name == to.Port.Name || x.Port == to.Port.Number
					}) {
						found.add(o, "the Service %s has no port %s%d", to.Name, to.Port.Name, to.Port.Number)
					}
				}
			}
		case *autoscalingv2.HorizontalPodAutoscaler:
			to := t.Spec.ScaleTargetRef
			if !slices.ContainsFunc(w.workloads(), func(x workload) bool {
				return x.kind == to.Kind && x.GetName() == to.Name && to.APIVersion == "apps/v1"
			}) {
				found.add(o, "there is no %s %s", to.Kind, to.Name)
			}
		case *appsv1.StatefulSet:
			if _, ok := services[t.Spec.ServiceName]; !ok {
				found.add(o, "there is no Service %s", t.Spec.ServiceName)
			}
		}
	}
	return found
}

func checkVolumes(w *world) (found problems) {
	for _, x := range w.workloads() {
		spec := &x.pod.Spec
		if _, ok := get[*corev1.ServiceAccount](w)[spec.ServiceAccountName]; !ok && spec.ServiceAccountName != "" {
			found.add(x, "there is no ServiceAccount %s", spec.ServiceAccountName)
		}
		unused := map[string]bool{}
		for _, name := range x.claims {
			unused[name] = true
		}
		for _, v := range spec.Volumes {
			unused[v.Name] = true
			missing := func(kind, name string, ok bool) {
				if !ok {
					found.add(x, "the volume %s: there is no %s %s", v.Name, kind, name)
				}
			}
			switch {
			case v.ConfigMap != nil:
				_, ok := get[*corev1.ConfigMap](w)[v.ConfigMap.Name]
				missing("ConfigMap", v.ConfigMap.Name, ok)
			case v.PersistentVolumeClaim != nil:
				_, ok := get[*corev1.PersistentVolumeClaim](w)[v.PersistentVolumeClaim.ClaimName]
				missing("PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName, ok)
			case v.Secret != nil:
				if _, ok := w.secrets[v.Secret.SecretName]; !ok {
					found.add(x, "the README makes no Secret %s", v.Secret.SecretName)
				}
			case v.EmptyDir == nil:
				found.add(x, "the volume %s is of a kind that this test does not know", v.Name)
			}
		}
		volumes := slices.Collect(maps.Keys(unused))
		for _, c := range spec.Containers {
			at := map[string]bool{}
			for _, m := range c.VolumeMounts {
				if !slices.Contains(volumes, m.Name) {
					found.add(x, "mounts %s, which is no volume", m.Name)
				}
				if at[path.Clean(m.MountPath)] {
					found.add(x, "two mounts at %s", m.MountPath)
				}
				if m.SubPath != "" {
					found.add(x, "the mount %s is a part of a volume, which does not change while the pod runs", m.Name)
				}
				at[path.Clean(m.MountPath)] = true
				delete(unused, m.Name)
			}
		}
		for name := range unused {
			found.add(x, "the volume %s is mounted nowhere", name)
		}
	}
	return found
}

// checkSafety wants what Kubernetes calls the restricted profile, and more of
// our own containers.
func checkSafety(w *world) (found problems) {
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	asks := w.asking()
	for _, x := range w.workloads() {
		spec := &x.pod.Spec
		if !is(spec.AutomountServiceAccountToken, false) && !asks[x.String()] {
			found.add(x, "mounts a token that nothing uses")
		}
		if !is(spec.EnableServiceLinks, false) {
			found.add(x, "gets variables of every Service, whose names may look like settings")
		}
		if s := spec.SecurityContext; s == nil || !is(s.RunAsNonRoot, true) {
			found.add(x, "may run as root")
		} else if s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			found.add(x, "has no seccomp profile")
		}
		for i := range spec.Containers {
			c := &spec.Containers[i]
			s := c.SecurityContext
			switch {
			case s == nil || !is(s.AllowPrivilegeEscalation, false):
				found.add(x, "%s may gain privileges", c.Name)
			case s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL"):
				found.add(x, "%s keeps capabilities", c.Name)
			case runsRhumb(c) && !is(s.ReadOnlyRootFilesystem, true):
				found.add(x, "%s can write its root", c.Name)
			}
			if !strings.Contains(path.Base(c.Image), ":") {
				found.add(x, "%s has an image without a tag", c.Name)
			}
		}
	}
	return found
}
