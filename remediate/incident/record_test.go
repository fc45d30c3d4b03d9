package incident

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

// records gives the journal's values after a whole incident.
func wholeIncident(t testing.TB) map[string]string {
	values := make(map[string]string)
	run := func(t testing.TB) {
		w := newWorld(4, true)
		j := &journal.Memory{}
		p, err := tryLaunch(w, w.options(handsOff(t), j))
		if err != nil {
			t.Fatal(err)
		}
		w.raise("n1", fault.XidOffTheBus)
		time.Sleep(10 * time.Minute)
		if err := p.SetKillSwitch(t.Context(), "operator", "drill"); err != nil {
			t.Fatal(err)
		}
		p.stop()
		for _, r := range j.Records() {
			values[r.Key] = string(r.Value)
		}
	}
	if t, ok := t.(*testing.T); ok {
		synctest.Test(t, func(t *testing.T) { run(t) })
	}
	return values
}

func TestRecordRoundTrip(t *testing.T) {
	values := wholeIncident(t)
	if len(values) != 2 {
		t.Fatalf("the journal holds %d records, want an incident and the control record", len(values))
	}
	for key, value := range values {
		r, err := decodeRecord(key, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		again, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value, string(again)); diff != "" {
			t.Errorf("record %s changes when it is read and written (-want +got):\n%s", key, diff)
		}
	}
}

const smallIncident = `{"schema":1,"incident":{"id":"inc-1","node":"n1","state":"acting","phases":[{"state":"acting"}],` +
	`"steps":[{"name":"replace","key":"inc-1/replace/1","instance_id":"i-1","outcome":"ambiguous"}]}}`

func TestDecodeRecordRefuses(t *testing.T) {
	const key = incidentPrefix + "inc-1"
	if _, err := decodeRecord(key, []byte(smallIncident)); err != nil {
		t.Fatalf("decodeRecord(%s) = %v", smallIncident, err)
	}
	for _, tc := range []struct{ name, key, old, new, want string }{
		{"newer schema", key, `"schema":1`, `"schema":2`, "schema 2 is not known"},
		{"no schema", key, `"schema":1,`, ``, "schema 0 is not known"},
		{"another incident", key, `"id":"inc-1"`, `"id":"inc-2"`, `holds incident "inc-2"`},
		{"another key", "incidents/inc-1", "", "", "holds nothing that belongs there"},
		{"no node", key, `"node":"n1",`, ``, "names no node"},
		{"unknown state", key, `"acting"`, `"resting"`, `state "resting" is not known`},
		{"closed without outcome", key, `"acting"`, `"closed"`, "closed without an outcome"},
		{"phases of another state", key, `[{"state":"acting"}]`, `[{"state":"isolated"}]`, "phases do not end"},
		{"unknown step", key, `"replace"`, `"erase"`, `steps[0].name "erase"`},
		{"unknown step outcome", key, `"ambiguous"`, `"perhaps"`, `steps[0].outcome "perhaps"`},
		{"repair of nothing", key, `"instance_id":"i-1",`, ``, "steps[0].instance_id is missing"},
		{"truncated", key, `}}`, `}`, "unexpected end"},
		{"no JSON", key, `{"schema"`, `"schema"`, "invalid character"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			value := strings.ReplaceAll(smallIncident, tc.old, tc.new)
			if tc.old == "" {
				value = smallIncident
			}
			if _, err := decodeRecord(tc.key, []byte(value)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("decodeRecord(%s, %s) = %v, want an error with %q", tc.key, value, err, tc.want)
			}
		})
	}
}

// A controller does not start on a journal that it does not understand.
func TestNewRefusesJournal(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values map[string]string
		want   string
	}{
		{"not understood", map[string]string{incidentPrefix + "inc-1": "{}"}, "schema 0"},
		{
			"two incidents on a node", map[string]string{
				incidentPrefix + "inc-1": smallIncident,
				incidentPrefix + "inc-2": strings.ReplaceAll(smallIncident, "inc-1", "inc-2"),
			}, "two open incidents on node n1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := &journal.Memory{}
			s, err := j.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range tc.values {
				if _, err := s.Put(t.Context(), key, 0, []byte(value)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := New(t.Context(), newWorld(2, false).options(handsOff(t), j)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// Whatever a value holds: it is refused, or the controller can go on with it.
func FuzzDecodeRecord(f *testing.F) {
	f.Add(incidentPrefix+"inc-1", []byte(smallIncident))
	f.Add(controlKey, []byte(`{"schema":1,"control":{"kill_switch":{"on":true},"together":{"fabric":"2026-11-24T12:00:00Z"}}}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := decodeRecord(key, value)
		if err != nil {
			return
		}
		if i := r.Incident; i != nil {
			c := i.clone()
			c.hold(nil, time.Time{})
			c.trim()
			_, _, _, _ = c.owesJob(), c.isolationKey(), c.struck(), c.touched()
			if handlers[i.State] == nil && i.State != Closed {
				t.Errorf("decodeRecord(%s) gives state %q, which nothing handles", value, i.State)
			}
		}
		again, err := encodeRecord(r)
		if err != nil {
			t.Fatalf("encodeRecord(decodeRecord(%s)) = %v", value, err)
		}
		if _, err := decodeRecord(key, again); err != nil {
			t.Errorf("decodeRecord(encodeRecord(decodeRecord(%s))) = %v", value, err)
		}
	})
}
