package deploy

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

func TestDecode(t *testing.T) {
	if err := yaml.UnmarshalStrict([]byte("kind: Deployment\n"), new(appsv1.Deployment)); err != nil {
		t.Fatal(err)
	}
}
