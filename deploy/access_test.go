package deploy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// TestAccess: who asks Kubernetes may, and may do no more; nobody else may anything.
func TestAccess(t *testing.T) {
	w := load(t)
	var found problems
	if w.objects, found = decode(w.files); len(found) > 0 {
		t.Fatal(found)
	}
	check{"access", checkAccess, []spoilt{
		{"agent.yaml", "verbs: [get, list, watch]", "verbs: [get, list]", "may not watch endpointslices"},
		{"agent.yaml", "verbs: [get, list, watch]", "verbs: [get, list, watch, update]", "may update endpointslices"},
		{"agent.yaml", "resources: [endpointslices]", "resources: [endpointslices, secrets]", "may get secrets"},
		{"agent.yaml", "resources: [endpointslices]", "resources: ['*']", "may get *"},
		{"agent.yaml", "apiGroups: [discovery.k8s.io]", "apiGroups: ['']", "may not get endpointslices"},
		{"agent.yaml", "kind: Role, name: rhumb-agent", "kind: Role, name: rhumb", "there is no Role rhumb"},
		{"agent.yaml", "kind: Role, name: rhumb-agent", "kind: ClusterRole, name: view", "there is no Role view"},
		{"agent.yaml", "{kind: ServiceAccount, name: rhumb-agent, namespace: inference}", "{kind: ServiceAccount, name: rhumb-agents, namespace: inference}", "there is no ServiceAccount rhumb-agents"},
		{"agent.yaml", "{kind: ServiceAccount, name: rhumb-agent, namespace: inference}", "{kind: ServiceAccount, name: rhumb-agent, namespace: default}", "there is no ServiceAccount rhumb-agent in default"},
		{"agent.yaml", "      automountServiceAccountToken: true", "      automountServiceAccountToken: false", "has no token to ask with"},
		{"agent.yaml", "      serviceAccountName: rhumb-agent\n", "", "may not get endpointslices"},
		{"agent.yaml", "type: kubernetes", "type: dns", "Role rhumb-agent: is for nobody who asks"},
	}}.run(t, w)
}

// asking are the workloads that ask Kubernetes, by how they are named in problems.
func (w *world) asking() map[string]bool {
	out := map[string]bool{}
	all, _ := w.daemons() // problems are told elsewhere
	for _, d := range all {
		if d.Agent == nil {
			continue
		}
		for _, src := range d.Agent.Discovery {
			out[d.String()] = out[d.String()] || src.Type == "kubernetes"
		}
	}
	return out
}

// needed is what discovery of type kubernetes does.
var needed = []string{"get endpointslices", "list endpointslices", "watch endpointslices"}

// allowed are the verbs and resources of a Role; those of other groups than
// discovery's have the group with them.
func allowed(r *rbacv1.Role) (out []string) {
	for _, rule := range r.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if group != "discovery.k8s.io" {
					resource += " of " + fmt.Sprintf("%q", group)
				}
				for _, verb := range rule.Verbs {
					out = append(out, verb+" "+resource)
				}
			}
		}
	}
	return out
}

func checkAccess(w *world) (found problems) {
	roles, accounts := get[*rbacv1.Role](w), get[*corev1.ServiceAccount](w)
	may := map[string][]string{} // by ServiceAccount
	askedFor := map[string]bool{}
	asks := w.asking()
	for _, x := range w.workloads() {
		if asks[x.String()] {
			askedFor[x.pod.Spec.ServiceAccountName] = true
		}
	}
	for _, o := range w.objects {
		b, ok := o.Object.(*rbacv1.RoleBinding)
		if !ok {
			continue
		}
		role := roles[b.RoleRef.Name]
		if role == nil || b.RoleRef.Kind != "Role" || b.RoleRef.APIGroup != rbacv1.GroupName {
			found.add(o, "there is no Role %s", b.RoleRef.Name)
			continue
		}
		for _, s := range b.Subjects {
			if a := accounts[s.Name]; s.Kind != rbacv1.ServiceAccountKind || a == nil || a.Namespace != s.Namespace {
				found.add(o, "there is no %s %s in %s", s.Kind, s.Name, s.Namespace)
				continue
			}
			may[s.Name] = append(may[s.Name], allowed(role)...)
			if !askedFor[s.Name] {
				found.add(place("Role "+role.Name), "is for nobody who asks")
			}
		}
	}
	for _, x := range w.workloads() {
		spec := &x.pod.Spec
		if !asks[x.String()] {
			continue
		}
		if m := spec.AutomountServiceAccountToken; m == nil || !*m {
			found.add(x, "has no token to ask with")
		}
		can := may[spec.ServiceAccountName]
		for _, act := range needed {
			if !slices.Contains(can, act) {
				found.add(x, "may not %s", act)
			}
		}
		for _, act := range can {
			if !slices.Contains(needed, act) {
				found.add(x, "may %s", strings.TrimSpace(act))
			}
		}
	}
	return found
}
