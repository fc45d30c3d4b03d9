package fault

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/golden"
)

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMarkdown(&b, NewCatalogue(DefaultTiming())); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "../../docs/faults.md", b.Bytes())
}

func TestRowsAreWhole(t *testing.T) {
	c := NewCatalogue(DefaultTiming())
	if n := len(c.Rows()); n != len(shipped(DefaultTiming())) {
		t.Errorf("%d rows of %d: a kind appears twice", n, len(shipped(DefaultTiming())))
	}
	for _, r := range c.Rows() {
		t.Run(string(r.Kind), func(t *testing.T) {
			for name, value := range map[string]string{"family": string(r.Family), "title": r.Title, "detail": r.Detail, "culprit": string(r.Culprit), "source": r.Source} {
				if value == "" {
					t.Errorf("has no %s", name)
				}
			}
			if r.Severity.Rank() == 0 {
				t.Errorf("severity %q is not one", r.Severity)
			}
			if r.Action.Rung() < 0 && r.Action != Investigate {
				t.Errorf("action %q is not one", r.Action)
			}
			if len(r.Clears) == 0 || len(r.RaisedBy) == 0 {
				t.Errorf("cleared by %v, raised by %v, want at least one of each", r.Clears, r.RaisedBy)
			}
			if !r.Cleared(ClearReplaced) {
				t.Error("outlives the machine that it was on")
			}
			if r.Cleared(ClearReading) != (r.ClearHold > 0) {
				t.Errorf("cleared by a reading: %t, held for %s", r.Cleared(ClearReading), r.ClearHold)
			}
			if (r.Confirm.Count > 1 || len(r.Confirm.Agree) > 0) != (r.Confirm.Window > 0) {
				t.Errorf("confirmation %+v has a window without use, or needs one", r.Confirm)
			}
			for _, k := range slices.Concat(r.Subsumes, r.Confirm.Agree) {
				if c.Row(k) == nil {
					t.Errorf("names kind %s, which the catalogue does not have", k)
				}
			}
			if reaches(c, r.Kind, r.Kind, nil) {
				t.Error("explains itself, through others")
			}
		})
	}
	if c.Row("nvidia.xid.999") != nil || c.Explains("nvidia.xid.999", XidNVLink) {
		t.Error("the catalogue knows a kind that it does not have")
	}
}

// reaches reports whether kind from explains kind to, directly or through others.
func reaches(c *Catalogue, from, to Kind, seen []Kind) bool {
	for _, k := range c.Row(from).Subsumes {
		if k == to || !slices.Contains(seen, k) && reaches(c, k, to, append(seen, k)) {
			return true
		}
	}
	return false
}

func TestTimingReachesRows(t *testing.T) {
	timing := Timing{ConfirmWindow: 3 * time.Second, ConfirmHold: 5 * time.Second, ClearHold: 7 * time.Second}
	for _, r := range NewCatalogue(timing).Rows() {
		if w := r.Confirm.Window; w != 0 && w != timing.ConfirmWindow {
			t.Errorf("%s: window %s, want %s", r.Kind, w, timing.ConfirmWindow)
		}
		if h := r.Confirm.Hold; h != 0 && h != timing.ConfirmHold {
			t.Errorf("%s: hold %s, want %s", r.Kind, h, timing.ConfirmHold)
		}
		if h := r.ClearHold; h != 0 && h != timing.ClearHold {
			t.Errorf("%s: clear hold %s, want %s", r.Kind, h, timing.ClearHold)
		}
	}
}

func TestTimingValidate(t *testing.T) {
	if err := DefaultTiming().Validate(); err != nil {
		t.Errorf("the shipped timing: %v", err)
	}
	err := Timing{ConfirmWindow: time.Second, ClearHold: -1}.Validate()
	if err == nil || !strings.Contains(err.Error(), "confirm_hold") || !strings.Contains(err.Error(), "clear_hold") || strings.Contains(err.Error(), "confirm_window") {
		t.Errorf("Validate = %v, want an error that names confirm_hold and clear_hold alone", err)
	}
}

func TestConfirmString(t *testing.T) {
	for _, tc := range []struct {
		c    Confirm
		want string
	}{
		{Confirm{}, "at once"},
		{Confirm{Count: 1}, "at once"},
		{Confirm{Count: 2, Window: time.Minute}, "2 observations within 1m0s"},
		{Confirm{Hold: time.Second}, "seen without interruption for 1s"},
		{Confirm{Count: 2, Agree: []Kind{GPUMissing}, Window: time.Minute}, "nvidia.gpu.missing on the same subject within 1m0s, or 2 observations within 1m0s"},
	} {
		if got := tc.c.String(); got != tc.want {
			t.Errorf("%+v.String() = %q, want %q", tc.c, got, tc.want)
		}
	}
}
