package health_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/kernel"
	"github.com/evenkeel/evenkeel/agent/simdevice"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/golden"
)

// remediatorKinds are raised by the remediator, whose tests hold their fixtures.
var remediatorKinds = []fault.Kind{fault.NodeSilent, fault.AgentSilent}

// TestFixtures holds every kind of the catalogue to three scripts in
// testdata/<kind>: raises.steps, then clears.steps, and near_miss.steps by itself.
func TestFixtures(t *testing.T) {
	catalogue := fault.NewCatalogue(fault.DefaultTiming())
	for _, row := range catalogue.Rows() {
		t.Run(string(row.Kind), func(t *testing.T) {
			if slices.Contains(remediatorKinds, row.Kind) {
				if !slices.Equal(row.RaisedBy, []string{"remediator"}) {
					t.Errorf("raised by %v, want only the remediator", row.RaisedBy)
				}
				return
			}
			dir := filepath.Join("testdata", string(row.Kind))
			var log bytes.Buffer

			w := newWorld(catalogue)
			w.play(t, filepath.Join(dir, "raises.steps"))
			fmt.Fprintf(&log, "raises:\n%s", w)
			if !w.raised(row) {
				t.Errorf("raises.steps raises no confirmed finding of kind %s with action %s that authorises:\n%s", row.Kind, row.Action, w)
			}
			w.play(t, filepath.Join(dir, "clears.steps"))
			fmt.Fprintf(&log, "clears:\n%s", w)
			if !w.cleared(row) {
				t.Errorf("clears.steps does not clear the finding of kind %s by evidence that its row allows:\n%s", row.Kind, w)
			}

			w = newWorld(catalogue)
			w.play(t, filepath.Join(dir, "near_miss.steps"))
			fmt.Fprintf(&log, "near miss:\n%s", w)
			if w.raised(row) {
				t.Errorf("near_miss.steps raises a confirmed finding of kind %s with action %s:\n%s", row.Kind, row.Action, w)
			}
			golden.Check(t, filepath.Join(dir, "findings.golden"), log.Bytes())
		})
	}
	folders, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if catalogue.Row(fault.Kind(filepath.Base(f))) == nil {
			t.Errorf("%s holds fixtures of a kind that the catalogue does not have", f)
		}
	}
}

// TestStormIsOneFinding: what one dead GPU makes everybody say is one finding to
// act upon, and the rest is explained by it.
func TestStormIsOneFinding(t *testing.T) {
	w := newWorld(fault.NewCatalogue(fault.DefaultTiming()))
	w.play(t, "testdata/storms/off_the_bus.steps")
	var authorising []fault.Kind
	for _, f := range w.engine.Findings() {
		if ok, _ := f.Authorises(); ok {
			authorising = append(authorising, f.Kind)
		}
	}
	if want := []fault.Kind{fault.XidOffTheBus}; !slices.Equal(authorising, want) {
		t.Errorf("findings that authorise: %v, want %v:\n%s", authorising, want, w)
	}
	golden.Check(t, "testdata/storms/off_the_bus.golden", []byte(w.String()))
}

// world is a node: an engine, what feeds it, and the time.
type world struct {
	catalogue *fault.Catalogue
	identity  health.Identity
	engine    *health.Engine
	matcher   *kernel.Matcher
	judge     *simdevice.Judge
}

var worldBegin = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

func newWorld(c *fault.Catalogue) *world {
	w := &world{catalogue: c, identity: health.Identity{
		Node: "ip-10-1-0-1", InstanceID: "i-0aaaaaaaaaaaaaaaa", BootID: "9d7e0a52-0000-4000-8000-000000000001"}}
	w.boot(nil, worldBegin)
	return w
}

// boot starts the agent anew, with the state that it saved.
func (w *world) boot(state []byte, now time.Time) error {
	w.engine = health.New(w.catalogue, w.identity)
	w.matcher = kernel.NewMatcher()
	w.judge = simdevice.NewJudge()
	if state == nil {
		return nil
	}
	return w.engine.Restore(state, now)
}

// play runs a script. A line is an offset from the beginning of the world, a
// verb and its argument: "kmsg" a raw record, "device" the content of the device
// file at a reading, "boot" and "instance" the new id.
func (w *world) play(t *testing.T, path string) {
	t.Helper()
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(script)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if err := w.step(line); err != nil {
			t.Fatalf("%s:%d: %v", path, i+1, err)
		}
	}
}

func (w *world) step(line string) error {
	fields := strings.SplitN(line, " ", 3)
	if len(fields) != 3 {
		return fmt.Errorf("%q is not an offset, a verb and an argument", line)
	}
	offset, err := time.ParseDuration(fields[0])
	if err != nil {
		return err
	}
	now := worldBegin.Add(offset)
	for next := w.engine.Next(); !next.IsZero() && next.Before(now); next = w.engine.Next() {
		w.engine.Tick(next)
	}
	switch verb, arg := fields[1], fields[2]; verb {
	case "kmsg":
		r, err := kernel.ParseRecord([]byte(arg))
		if err != nil {
			return err
		}
		said := w.matcher.Match(&r, now)
		for i := range said {
			said[i].Simulated = true // as a record of a file is
		}
		w.engine.Observe(now, said)
	case "device":
		d, err := simdevice.Decode(strings.NewReader(arg))
		if err != nil {
			return err
		}
		if hung := d.Hung(); len(hung) > 0 {
			w.engine.Observe(now, w.judge.Stuck(now, hung, time.Second))
			return nil
		}
		w.engine.Observe(now, w.judge.Reading(now, d))
	case "boot":
		w.identity.BootID = arg
		return w.boot(w.engine.Save(), now)
	case "instance":
		w.identity.InstanceID = arg
		return w.boot(w.engine.Save(), now)
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}

func (w *world) raised(row *fault.Row) bool {
	return slices.ContainsFunc(w.engine.Findings(), func(f fault.Finding) bool {
		authorises, _ := f.Authorises()
		return f.Kind == row.Kind && authorises && f.Action == row.Action && f.Severity == row.Severity
	})
}

func (w *world) cleared(row *fault.Row) bool {
	found := false
	for _, f := range w.engine.Findings() {
		if f.Kind != row.Kind {
			continue
		}
		if f.State != fault.OK || f.ClearedBy == nil || !row.Cleared(f.ClearedBy.Clear) {
			return false
		}
		found = true
	}
	return found
}

// String shows the findings as a reviewer reads them.
func (w *world) String() string {
	var b strings.Builder
	for _, f := range w.engine.Findings() {
		fmt.Fprintf(&b, "  %s on %s: %s", f.Kind, f.Subject, f.State)
		for _, mark := range []struct {
			set  bool
			text string
		}{{f.Provisional, "provisional"}, {f.History, "history"}, {f.Simulated, "simulated"}} {
			if mark.set {
				b.WriteString(", " + mark.text)
			}
		}
		fmt.Fprintf(&b, ", %s, %s, seen %d times", f.Severity, f.Action, f.Count)
		if f.SubsumedBy != "" {
			fmt.Fprintf(&b, ", explained by %s", f.SubsumedBy)
		}
		if f.ClearedBy != nil {
			fmt.Fprintf(&b, ", cleared by %s after %s: %s", f.ClearedBy.Clear, f.ClearedBy.Time.Sub(f.First), f.ClearedBy.Text)
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 {
		return "  nothing\n"
	}
	return b.String()
}
