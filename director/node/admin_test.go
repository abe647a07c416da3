package node

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// volatile is what differs from run to run in the admin API's answers.
var volatile = []struct {
	shape *regexp.Regexp
	as    string
}{
	{regexp.MustCompile(`"(status_age_ms)":[0-9.]+`), `"$1":AGE`},
	{regexp.MustCompile(`"(made|since)":"[0-9T:.Z+-]+"`), `"$1":"TIME"`},
	{regexp.MustCompile(`"table":"[0-9a-f]{16}"`), `"table":"HASH"`},
	{regexp.MustCompile(`"rtt_ms":[0-9.]+`), `"rtt_ms":RTT`}, // by where the people of a country live
	{regexp.MustCompile(`"decision":"[0-9a-f]{16}"`), `"decision":"ID"`},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), `ADDR`},
}

func TestAdminAPI(t *testing.T) {
	t.Parallel()
	_, d, _, _ := twoRegions(t)
	for _, c := range []struct {
		call   string
		status int
		want   string // JSON, or a part of the text
	}{
		{"/healthz", http.StatusOK, "ok"},
		{"/metrics", http.StatusOK, `rhumb_director_region_state{region="eu-west",state="ready"} 1`},
		{"/metrics", http.StatusOK, `rhumb_director_region_state{region="eu-west",state="lost"} 0`},
		{"/metrics", http.StatusOK, `rhumb_director_capacity_slots{model="mistral",region="us-east"} 16`},
		{"/metrics", http.StatusOK, `rhumb_director_capacity_slots{model="mistral",region="eu-west"} 0`},
		{"/metrics", http.StatusOK, "rhumb_director_spill_rows_sent_total"},
		{"/api/v1/regions", http.StatusOK, `[
			{"id":"eu-west","state":"ready","confidence":1,"reason":"status fresh, endpoint answers","endpoints":["http://ADDR"],
			"lat":53.35,"lon":-6.26,"status_age_ms":AGE,"models":[
				{"name":"llama","pods_taking":3,"slots":24,"in_flight":2,"queued":0,"wait_ms":0}]},
			{"id":"us-east","state":"ready","confidence":1,"reason":"status fresh, endpoint answers","endpoints":["http://ADDR"],
			"lat":38.94,"lon":-77.45,"status_age_ms":AGE,"models":[
				{"name":"llama","pods_taking":3,"slots":24,"in_flight":0,"queued":0,"wait_ms":0},
				{"name":"mistral","pods_taking":2,"slots":16,"in_flight":0,"queued":0,"wait_ms":0}]}]`},
		{"/api/v1/members", http.StatusOK, `[
			{"name":"eu-west/a","role":"agent","region":"eu-west","addr":"ADDR","state":"alive","since":"TIME"},
			{"name":"ns1","role":"director","addr":"ADDR","state":"alive","since":"TIME"},
			{"name":"us-east/a","role":"agent","region":"us-east","addr":"ADDR","state":"alive","since":"TIME"}]`},
		{"/api/v1/explain?client=81.2.69.160&model=llama", http.StatusOK, `{
			"decision":"ID","client":"81.2.69.0/24","cell":"GB","bucket":32,"shares_of_256":{"eu-west":256},"candidates":[
				{"region":"eu-west","state":"ready","rtt_ms":RTT,"wait_ms":0,"reason":"nearest that can serve"},
				{"region":"us-east","state":"ready","rtt_ms":RTT,"wait_ms":0,"reason":"next in distance and wait"}]}`},
		{"/api/v1/explain?client=2003::1&model=mistral", http.StatusOK, `{
			"decision":"ID","client":"2003::/48","cell":"DE","bucket":9,"shares_of_256":{"us-east":256},"candidates":[
				{"region":"us-east","state":"ready","rtt_ms":RTT,"wait_ms":0,"reason":"nearest that can serve"}]}`},
		{"/api/v1/explain?client=8.8.8.8", http.StatusOK, `"cell":"US"`}, // the zone itself
		{"/api/v1/explain?client=81.2.69.160&model=gpt", http.StatusNotFound, `{"error":"no region has ever had the model \"gpt\""}`},
		{"/api/v1/explain?client=britain", http.StatusBadRequest, `an IP address, like ?client=192.0.2.1`},
		{"/api/v1/explain", http.StatusBadRequest, `client: want an IP address`},
		{"/api/v1/overrides", http.StatusNotFound, ""},
	} {
		t.Run(c.call, func(t *testing.T) {
			want := strings.NewReplacer("\n", "", "\t", "").Replace(c.want)
			var status int
			var got string
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("got %d\n%s\nwant %d\n%s", status, got, c.status, want)
				}
			})
			// On a busy machine a status can be late, and then it says so.
			regionstest.Eventually(t, patience, func() bool {
				status, got = d.call(t, c.call)
				if strings.HasPrefix(want, "[") || strings.HasPrefix(want, "{") {
					return status == c.status && got == want
				}
				return status == c.status && strings.Contains(got, want)
			}, "the wanted answer")
		})
	}
}

// call asks the admin API, and takes out of the answer what is volatile.
func (r *running) call(t *testing.T, path string) (status int, text string) {
	t.Helper()
	res, text := get(t, r.adminURL()+path)
	for _, v := range volatile {
		text = v.shape.ReplaceAllString(text, v.as)
	}
	return res.StatusCode, strings.TrimSpace(text)
}

// TestAdminPlan waits for the settled plan: what is planned follows the load.
func TestAdminPlan(t *testing.T) {
	t.Parallel()
	_, d, _, _ := twoRegions(t)
	want := []string{
		`"table":"HASH","made":"TIME"`,
		`{"model":"llama","label":"llama","regions":[{"region":"eu-west","capacity":24,"load":2,"planned":`,
		`{"model":"mistral","label":"mistral","regions":[{"region":"us-east","capacity":16,"load":0,"planned":`,
	}
	regionstest.Eventually(t, patience, func() bool {
		_, text := d.call(t, "/api/v1/plan")
		for _, part := range want {
			if !strings.Contains(text, part) {
				return false
			}
		}
		return true
	}, "a plan of both models")
	if _, models := d.call(t, "/api/v1/models"); !strings.HasPrefix(models, "[{\"model\":\"llama\"") {
		t.Errorf("models: %s", models)
	}
}
