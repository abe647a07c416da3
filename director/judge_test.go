package director

import (
	"testing"
	"time"
)

func TestJudgeOverTime(t *testing.T) {
	type step struct {
		at         time.Duration // after epoch
		heard      time.Duration // when the region's last status came
		failed, ok int           // probes in a row
		draining   bool
		stopping   bool
		unprobed   bool
		want       State
		faded      bool
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"both witnesses well", []step{{at: 100 * time.Millisecond, ok: 1, want: Ready}}},
		{"never probed, fresh status", []step{{at: 100 * time.Millisecond, want: Ready}}},
		{"one failed probe is nothing", []step{{at: 0, failed: 1, want: Ready}}},
		{"speaks but can't be reached", []step{{at: 0, failed: 2, want: Degraded, faded: true}, {at: 0, failed: 7, want: Degraded, faded: true}}},
		{"speaks but can't be reached for long", []step{{at: 0, failed: 8, want: Degraded}}},
		{"three missed statuses are nothing", []step{{at: 2 * time.Second, failed: 5, want: Degraded, faded: true}}},
		{"silent but answers", []step{{at: 2100 * time.Millisecond, ok: 9, want: Ready, faded: true}}},
		{"silent and one failed probe", []step{{at: 2100 * time.Millisecond, failed: 1, want: Ready, faded: true}}},
		{"silent and gone", []step{{at: 2100 * time.Millisecond, failed: 2, want: Lost}}},
		{"silent and never probed", []step{{at: 9 * time.Second, unprobed: true, want: Lost}}},
		{"drained, but silent and gone", []step{{at: 9 * time.Second, failed: 9, draining: true, want: Lost}}},
		{"drained, by either witness", []step{
			{at: 0, failed: 9, draining: true, want: Draining},
			{at: 9 * time.Second, ok: 1, draining: true, want: Draining},
		}},
		{"stops, and is gone", []step{
			{at: 0, ok: 9, stopping: true, want: Leaving},
			{at: 1 * time.Second, failed: 2, stopping: true, want: Leaving},
			{at: 3 * time.Second, failed: 6, stopping: true, want: Lost},
		}},
		{"speaks again before it answers", []step{
			{at: 3 * time.Second, failed: 5, want: Lost},
			{at: 4 * time.Second, heard: 4 * time.Second, failed: 6, want: Lost},
			{at: 5 * time.Second, heard: 5 * time.Second, ok: 1, want: Lost},
			{at: 6 * time.Second, heard: 6 * time.Second, ok: 2, want: Ready},
		}},
		{"dies and comes back steadily", []step{
			{at: 0, ok: 5, want: Ready},
			{at: 1 * time.Second, failed: 2, want: Degraded, faded: true},
			{at: 2200 * time.Millisecond, failed: 4, want: Lost},
			{at: 9 * time.Second, ok: 1, want: Lost},
			{at: 9500 * time.Millisecond, heard: 9400 * time.Millisecond, ok: 1, want: Lost},
			{at: 10 * time.Second, heard: 9900 * time.Millisecond, ok: 2, want: Ready},
		}},
		{"comes back by probes alone, with less confidence", []step{
			{at: 3 * time.Second, failed: 2, want: Lost},
			{at: 4 * time.Second, ok: 2, want: Ready, faded: true},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld().region("eu", 5, model("llama", 8, 0, 0))
			for i, s := range tt.steps {
				w.heard("eu", epoch.Add(s.heard)).probe("eu", s.failed, s.ok)
				if s.unprobed {
					w.in.Probes = nil
				}
				w.status("eu").Draining, w.status("eu").Stopping = s.draining, s.stopping
				v := Judge(w.inputs(), epoch.Add(s.at))
				w.in.Control.Verdicts = v
				if len(v) != 1 || v[0].State != s.want {
					t.Fatalf("step %d: got %+v, want %v", i, v, s.want)
				}
				if faded := v[0].Confidence == fadedConfidence; faded != s.faded {
					t.Fatalf("step %d: confidence %d, want faded %v", i, v[0].Confidence, s.faded)
				}
			}
		})
	}
}

func TestJudgeRelayed(t *testing.T) {
	w := newWorld().region("ap", 1).region("eu", 2).region("sa", 3).region("us", 4)
	w.status("eu").Draining, w.status("sa").Stopping = true, true
	w.heard("us", epoch.Add(-time.Minute))
	want := map[string]State{"ap": Ready, "eu": Draining, "sa": Leaving, "us": Lost}
	for _, v := range JudgeRelayed(w.inputs().Snapshot, epoch.Add(10*time.Second), 45*time.Second) {
		if v.State != want[string(v.Region)] {
			t.Errorf("%s: %v (%s)", v.Region, v.State, v.Reason)
		}
	}
}
