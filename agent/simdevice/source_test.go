package simdevice

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/golden"
)

// file is a device file that a test rewrites.
type file struct {
	t    *testing.T
	path string
}

func newFile(t *testing.T) file { return file{t, filepath.Join(t.TempDir(), "devices.json")} }

// write replaces the file at once, as whoever simulates has to.
func (f file) write(content string) {
	f.t.Helper()
	if err := os.WriteFile(f.path+".tmp", []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".tmp", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// gpu is a healthy GPU as JSON, with more fields before its end.
func gpu(index int, more string) string {
	return fmt.Sprintf(`{"index":%d,"uuid":"GPU-%d","pci":"0000:5%d:00","model":"NVIDIA H200","temperature_celsius":45,"slowdown_temperature_celsius":87%s}`, index, index, index, more)
}

func devices(gpus ...string) string {
	return `{"gpus":[` + strings.Join(gpus, ",") + `],"processes":[{"pid":7,"device_uuid":"GPU-0","job":"42","rank":0,"local_rank":0}]}`
}

// said lists the observations of a batch in one line each, without those that
// say ok.
func said(b source.Batch) (out []string) {
	for _, o := range b.Observations {
		if o.State != fault.OK {
			out = append(out, fmt.Sprintf("%s %s %s", o.Kind, o.State, o.Subject.Key()))
		}
	}
	return out
}

func uuids(b source.Batch) (out []string) {
	for _, r := range b.Readings {
		if uuid := r.Labels[1].Value; !slices.Contains(out, uuid) {
			out = append(out, uuid)
		}
	}
	return out
}

func TestRun(t *testing.T) {
	f := newFile(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		batches := make(chan source.Batch)
		go New(Config{Path: f.path, Node: "n1", Deadline: 2 * time.Second}).Run(ctx, func(b source.Batch) {
			select {
			case batches <- b:
			case <-ctx.Done():
			}
		})
		check := func(what string, coverage fault.CoverageState, observations, readings []string, processes int) {
			t.Helper()
			b := <-batches
			if b.Coverage != coverage || (coverage == fault.CoverageUnknown) != (b.Detail != "") {
				t.Errorf("%s: coverage %s (%s), want %s", what, b.Coverage, b.Detail, coverage)
			}
			if diff := cmp.Diff(observations, said(b)); diff != "" {
				t.Errorf("%s: observations differ (-want +got):\n%s", what, diff)
			}
			if diff := cmp.Diff(readings, uuids(b)); diff != "" {
				t.Errorf("%s: GPUs with readings differ (-want +got):\n%s", what, diff)
			}
			if len(b.Processes) != processes {
				t.Errorf("%s: %d processes, want %d", what, len(b.Processes), processes)
			}
		}
		both := []string{"GPU-0", "GPU-1"}

		check("no file", fault.CoverageAbsent, nil, nil, 0)
		f.write(devices(gpu(0, ""), gpu(1, "")))
		check("healthy", fault.CoverageOK, nil, both, 1)
		f.write(devices(gpu(0, ""), gpu(1, `,"lost":true`)))
		check("lost", fault.CoverageOK, []string{"nvidia.gpu.missing bad gpu/0000:51:00"}, both[:1], 1)
		f.write(devices(gpu(0, "")))
		check("fewer", fault.CoverageOK, []string{"nvidia.gpu.missing bad gpu/0000:51:00"}, both[:1], 1)
		f.write(`{"gpus":[`)
		check("malformed", fault.CoverageUnknown, nil, nil, 0)

		hung := []string{"nvidia.driver.hung bad gpu/0000:51:00"}
		f.write(devices(gpu(0, ""), gpu(1, `,"hang":true`)))
		began := time.Now()
		check("hung", fault.CoverageUnknown, hung, nil, 1)
		if d := time.Since(began); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("a hung reading was reported after %s, want the deadline of 2 s after the next reading began", d)
		}
		check("still hung", fault.CoverageUnknown, hung, nil, 1)
		f.write(devices(gpu(0, ""), gpu(1, "")))
		check("returned", fault.CoverageOK, nil, both, 1)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		check("no file any more", fault.CoverageUnknown, nil, nil, 0)
	})
}

func TestRunEndsWhileHung(t *testing.T) {
	f := newFile(t)
	f.write(devices(gpu(0, `,"hang":true`)))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- New(Config{Path: f.path}).Run(ctx, func(source.Batch) {}) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestReadings(t *testing.T) {
	d, err := Decode(strings.NewReader(devices(gpu(0, `,"power_watts":612.5,"sm_clock_hertz":1755000000,"max_sm_clock_hertz":1980000000,
		"utilization_ratio":0.97,"memory_used_bytes":107374182400,"memory_total_bytes":151397597184,"ecc_double_bit_total":2`), gpu(1, ""))))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range d.GPUs {
		for _, r := range d.GPUs[i].readings("ip-10-1-0-1") {
			var labels []string
			for _, l := range r.Labels {
				labels = append(labels, fmt.Sprintf("%s=%q", l.Name, l.Value))
			}
			fmt.Fprintf(&b, "%s{%s} %g (%s)\n", r.Name, strings.Join(labels, ","), r.Value, r.Type)
		}
	}
	golden.Check(t, "testdata/readings.golden", []byte(b.String()))
}

func TestJudge(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	links := func(up bool, errors int) string {
		return fmt.Sprintf(`,"nvlinks":[{"link":0,"up":true,"errors_total":3},{"link":1,"up":%t,"errors_total":%d}]`, up, errors)
	}
	const (
		thermal = "nvidia.gpu.thermal"
		nvlink  = "nvidia.xid.74"
	)
	for _, tc := range []struct {
		name   string
		before string // GPU 0 at the reading before; empty for none
		now    string
		kind   fault.Kind
		want   string // state and text; empty for no word on the kind
	}{
		{"at slowdown temperature", "", `{"index":0,"uuid":"G","pci":"53:00","temperature_celsius":87,"slowdown_temperature_celsius":87}`, thermal, "bad: 87 C, slows down at 87 C"},
		{"one degree below", "", `{"index":0,"uuid":"G","pci":"53:00","temperature_celsius":86,"slowdown_temperature_celsius":87}`, thermal, "ok: 86 C, slows down at 87 C"},
		{"no threshold", "", `{"index":0,"uuid":"G","pci":"53:00","temperature_celsius":86}`, thermal, ""},
		{"no temperature", "", `{"index":0,"uuid":"G","pci":"53:00","slowdown_temperature_celsius":87}`, thermal, ""},
		{"first reading of links", "", gpu(0, links(true, 0)), nvlink, ""},
		{"steady links", gpu(0, links(true, 5)), gpu(0, links(true, 5)), nvlink, "ok: all 2 links up, errors stay at 8"},
		{"new link errors", gpu(0, links(true, 5)), gpu(0, links(true, 6)), nvlink, "unknown: link errors changed from 8 to 9"},
		{"link down", gpu(0, links(true, 5)), gpu(0, links(false, 5)), nvlink, "unknown: links down: 1"},
		{"no links", gpu(0, ""), gpu(0, ""), nvlink, ""},
		{"lost between", gpu(0, links(true, 5)+`,"lost":true`), gpu(0, links(true, 5)), nvlink, ""},
		{"lost", gpu(0, ""), gpu(0, `,"lost":true`), fault.GPUMissing, "bad: the driver says that the GPU is lost"},
		{"lost has no temperature", "", gpu(0, `,"lost":true`), thermal, ""},
		{"there", "", gpu(0, ""), fault.GPUMissing, "ok: the driver lists the GPU"},
		{"answers", "", gpu(0, ""), fault.XidMMUFault, "ok: the GPU answers"},
		{"returns", "", gpu(0, ""), fault.DriverHung, "ok: the reading returned"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := NewJudge()
			var got []health.Observation
			for _, content := range []string{tc.before, tc.now} {
				if content == "" {
					continue
				}
				d, err := Decode(strings.NewReader(`{"gpus":[` + content + `]}`))
				if err != nil {
					t.Fatal(err)
				}
				got = j.Reading(at, d)
			}
			word := ""
			for _, o := range got {
				if o.Kind == tc.kind {
					word = fmt.Sprintf("%s: %s", o.State, o.Evidence.Text)
				}
				if o.Evidence.Authority != fault.ByDevice || !o.Simulated || (o.State == fault.OK) != (o.Clear == fault.ClearReading) {
					t.Errorf("observation %+v, want one of the device, simulated, clearing only if ok", o)
				}
			}
			if word != tc.want {
				t.Errorf("Reading says of %s %q, want %q", tc.kind, word, tc.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct{ content, want string }{
		{"", "empty file"},
		{" \n", "empty file"},
		{"{", "unexpected end"},
		{`[]`, "cannot unmarshal"},
		{`{"gpus":[{"index":-1,"uuid":"G","pci":"53:00"}]}`, "gpus[0].index"},
		{`{"gpus":[{"index":0,"pci":"53:00"}]}`, "gpus[0].uuid"},
		{`{"gpus":[{"index":0,"uuid":"G","pci":"xx"}]}`, "gpus[0].pci"},
		{`{"gpus":[{"index":0,"uuid":"G","pci":"53:00"},{"index":0,"uuid":"H","pci":"54:00"}]}`, "index 0 appears twice"},
		{`{"gpus":[{"index":0,"uuid":"G","pci":"53:00"},{"index":1,"uuid":"G","pci":"54:00"}]}`, "uuid G appears twice"},
		{`{"gpus":[{"index":0,"uuid":"G","pci":"53:00"},{"index":1,"uuid":"H","pci":"0000:53:00.0"}]}`, "pci 0000:53:00 appears twice"},
		{`{"gpus":[{"index":0,"uuid":"G","pci":"53:00","temperature_celsius":1e999}]}`, "cannot unmarshal"},
		{`{"processes":[{"job":"` + strings.Repeat("x", maxText+1) + `"}]}`, "processes[0]"},
		{`{"gpus":[` + strings.Repeat(" ", maxFileBytes) + `]}`, "larger than"},
	} {
		if _, err := Decode(strings.NewReader(tc.content)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Decode(%.60q) = %v, want an error that says %q", tc.content, err, tc.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(devices(gpu(0, `,"nvlinks":[{"link":0,"up":true,"errors_total":3}]`), gpu(1, `,"lost":true`))))
	f.Add([]byte(`{"gpus":[{"index":0,"uuid":"G","pci":"53:00","hang":true}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := Decode(strings.NewReader(string(content)))
		if err != nil {
			return
		}
		j := NewJudge()
		for range 2 {
			for _, o := range j.Reading(time.Time{}, d) {
				if o.Subject.PCI == "" || o.Evidence.Authority != fault.ByDevice {
					t.Errorf("observation without subject or authority: %+v", o)
				}
			}
			j.Stuck(time.Time{}, d.Hung(), time.Second)
		}
	})
}
