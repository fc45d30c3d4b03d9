package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

const local = "http://127.0.0.1:7000"

// script gives an adapter whose program is a shell script. The script finds its
// own folder in $1.
func script(t *testing.T, endpoint, body string) (*Adapter, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Program: []string{"/bin/sh", path, dir}, Endpoint: endpoint, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// says is a script that answers with the JSON text.
func says(text string) string { return "cat <<'END'\n" + text + "\nEND" }

func TestQuestions(t *testing.T) {
	view := `{"node":"n1","responding":"no","isolated":true,"isolation_key":"k1","reason":"Not responding","instance_id":"i-1","boot_id":"b","job":"42","idle":false}`
	wantView := incident.NodeView{
		Node: "n1", Responding: incident.RespondingNo, Isolated: true, IsolationKey: "k1", Reason: "Not responding", InstanceID: "i-1", BootID: "b", Job: "42",
	}
	job := `{"job":"42","state":"stopped","nodes":["n1","n2"],"checkpoint_dir":"/fsx/c","self_resuming":true,"restarts":3,"last_key":"k2"}`
	wantJob := incident.JobView{
		Job: "42", State: incident.JobStopped, Nodes: []string{"n1", "n2"}, CheckpointDir: "/fsx/c", SelfResuming: true, Restarts: 3, LastKey: "k2",
	}
	ctx := t.Context()

	a, _ := script(t, local, says(`{"schema":1,"outcome":"done","node":`+view+`,"unheard_of":1}`))
	if got, err := a.View(ctx, "n1"); err != nil || got != wantView {
		t.Errorf("View(n1) = %+v, %v, want %+v", got, err, wantView)
	}
	if _, err := a.View(ctx, "n2"); err == nil || errors.Is(err, incident.ErrNotFound) {
		t.Errorf("View(n2) answered with n1 = %v, want an error that is not %v", err, incident.ErrNotFound)
	}

	a, _ = script(t, local, says(`{"schema":1,"outcome":"done","nodes":[`+view+`,{"node":"n2","responding":"perhaps","idle":true}]}`))
	want := []incident.NodeView{wantView, {Node: "n2", Responding: incident.RespondingUnknown, Idle: true}}
	if got, err := a.Views(ctx); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Views() = %v, diff (-want +got):\n%s", err, cmp.Diff(want, got))
	}

	a, _ = script(t, local, says(`{"schema":1,"outcome":"done","job":`+job+`}`))
	if got, err := a.Job(ctx, "42"); err != nil || !cmp.Equal(got, wantJob) {
		t.Errorf("Job(42) = %v, diff (-want +got):\n%s", err, cmp.Diff(wantJob, got))
	}
	if _, err := a.Job(ctx, "43"); err == nil {
		t.Error("Job(43) answered with 42 = nil, want an error")
	}

	a, _ = script(t, local, says(`{"schema":1,"outcome":"not_found","message":"who?"}`))
	if _, err := a.View(ctx, "n1"); !errors.Is(err, incident.ErrNotFound) {
		t.Errorf("View() = %v, want %v", err, incident.ErrNotFound)
	}
	if _, err := a.Job(ctx, "42"); !errors.Is(err, incident.ErrNotFound) {
		t.Errorf("Job() = %v, want %v", err, incident.ErrNotFound)
	}
}

// TestRequests shows the program exactly what the contract says it reads.
func TestRequests(t *testing.T) {
	a, dir := script(t, local, `cat >"$1/stdin"; echo '{"schema":1,"outcome":"done"}'`)
	ctx := t.Context()
	isolation := incident.Isolation{Key: "k", Node: "n1", Reason: "sick", Simulated: true}
	for _, test := range []struct {
		call func() error
		want string
	}{
		{func() error { return a.Isolate(ctx, isolation) },
			`{"schema":1,"operation":"isolate","key":"k","node":"n1","reason":"sick","job":"","checkpoint":"","exclude":[]}`},
		{func() error { return a.Unisolate(ctx, isolation) },
			`{"schema":1,"operation":"unisolate","key":"k","node":"n1","reason":"sick","job":"","checkpoint":"","exclude":[]}`},
		{func() error { return a.Stop(ctx, incident.Stoppage{Key: "k", Job: "42", Reason: "sick"}) },
			`{"schema":1,"operation":"stop","key":"k","node":"","reason":"sick","job":"42","checkpoint":"","exclude":[]}`},
		{func() error {
			return a.Resume(ctx, incident.Resumption{Key: "k", Job: "42", Checkpoint: "/c/8", Exclude: []string{"n1"}})
		},
			`{"schema":1,"operation":"resume","key":"k","node":"","reason":"","job":"42","checkpoint":"/c/8","exclude":["n1"]}`},
		{func() error { _, err := a.Views(ctx); return err },
			`{"schema":1,"operation":"views","key":"","node":"","reason":"","job":"","checkpoint":"","exclude":[]}`},
	} {
		if err := test.call(); err != nil {
			t.Errorf("call for %s = %v", test.want, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "stdin"))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != test.want {
			t.Errorf("program read\n%s\nwant\n%s", got, test.want)
		}
	}
}

// TestOutcomes separates a request that had no effect from one of which nobody
// knows.
func TestOutcomes(t *testing.T) {
	const (
		done      = "done"
		refused   = "not executed"
		notFound  = "not executed, not found"
		ambiguous = "ambiguous"
	)
	for _, test := range []struct {
		name, body, want string
	}{
		{"done", says(`{"schema":1,"outcome":"done"}`), done},
		{"refused", says(`{"schema":1,"outcome":"refused","message":"reserved"}`), refused},
		{"not found", says(`{"schema":1,"outcome":"not_found"}`), notFound},
		{"another status", says(`{"schema":1,"outcome":"refused"}`) + "\nexit 1", ambiguous},
		{"killed", says(`{"schema":1,"outcome":"refused"}`) + "\nkill -9 $$", ambiguous},
		{"nothing", "", ambiguous},
		{"no JSON", "echo done", ambiguous},
		{"half an answer", `printf '{"schema":1,"outcome":"do'`, ambiguous},
		{"two answers", says(`{"schema":1,"outcome":"done"}{"schema":1,"outcome":"refused"}`), ambiguous},
		{"another schema", says(`{"schema":2,"outcome":"refused"}`), ambiguous},
		{"another outcome", says(`{"schema":1,"outcome":"maybe"}`), ambiguous},
		{"too long", says(`{"schema":1,"outcome":"refused"}`) + "\nyes", ambiguous},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, _ := script(t, local, test.body)
			err := a.Isolate(t.Context(), incident.Isolation{Key: "k", Node: "n1"})
			got := ambiguous
			switch {
			case err == nil:
				got = done
			case errors.Is(err, incident.ErrNotExecuted) && errors.Is(err, incident.ErrNotFound):
				got = notFound
			case errors.Is(err, incident.ErrNotExecuted):
				got = refused
			}
			if got != test.want {
				t.Errorf("Isolate() = %v, which is %s, want %s", err, got, test.want)
			}
			if _, err := a.View(t.Context(), "n1"); err == nil {
				t.Error("View() = nil, want an error: none of the answers holds a view")
			} else if found := !errors.Is(err, incident.ErrNotFound); found == (test.want == notFound) {
				t.Errorf("View() = %v, want %v only for the outcome not_found", err, incident.ErrNotFound)
			}
		})
	}
}

func TestProgramThatCannotStart(t *testing.T) {
	a, err := New(Config{Program: []string{filepath.Join(t.TempDir(), "missing")}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(t.Context(), incident.Stoppage{Key: "k", Job: "42"}); !errors.Is(err, incident.ErrNotExecuted) {
		t.Errorf("Stop() = %v, want %v", err, incident.ErrNotExecuted)
	}
	if _, err := a.View(t.Context(), "n1"); err == nil || errors.Is(err, incident.ErrNotFound) {
		t.Errorf("View() = %v, want an error that is not %v", err, incident.ErrNotFound)
	}
}

func TestSimulatedRequestsStayOnLoopback(t *testing.T) {
	for _, test := range []struct {
		endpoint string
		want     bool
	}{
		{"http://127.0.0.1:7000", true},
		{"http://[::1]:7000", true},
		{"http://localhost:7000", true},
		{"http://10.0.0.1:7000", false},
		{"http://127.0.0.1.example.com:7000", false},
		{"http://127.0.0.1@10.0.0.1:7000", false},
		{"http://localhost.example.com", false},
		{"", false},
	} {
		a, dir := script(t, test.endpoint, `touch "$1/ran"; echo '{"schema":1,"outcome":"done"}'`)
		ctx := t.Context()
		calls := map[string]func(simulated bool) error{
			"Isolate":   func(s bool) error { return a.Isolate(ctx, incident.Isolation{Node: "n1", Simulated: s}) },
			"Unisolate": func(s bool) error { return a.Unisolate(ctx, incident.Isolation{Node: "n1", Simulated: s}) },
			"Stop":      func(s bool) error { return a.Stop(ctx, incident.Stoppage{Job: "42", Simulated: s}) },
			"Resume":    func(s bool) error { return a.Resume(ctx, incident.Resumption{Job: "42", Simulated: s}) },
		}
		for name, call := range calls {
			ran := filepath.Join(dir, "ran")
			err := call(true)
			_, statErr := os.Stat(ran)
			if got := err == nil && statErr == nil; got != test.want {
				t.Errorf("simulated %s with endpoint %q = %v, ran %v, want it to run: %v", name, test.endpoint, err, statErr == nil, test.want)
			}
			if !test.want && !errors.Is(err, incident.ErrNotExecuted) {
				t.Errorf("simulated %s with endpoint %q = %v, want %v", name, test.endpoint, err, incident.ErrNotExecuted)
			}
			if err := call(false); err != nil {
				t.Errorf("real %s with endpoint %q = %v, want nil", name, test.endpoint, err)
			}
			_ = os.Remove(ran)
		}
	}
}

func TestProgramInheritsNoSecrets(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	a, dir := script(t, local, `env >"$1/env"; echo '{"schema":1,"outcome":"done"}'`)
	if _, err := a.Views(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "PWD", "OLDPWD", "SHLVL", "_": // the shell's own
		default:
			got[name] = value
		}
	}
	want := map[string]string{"PATH": os.Getenv("PATH"), "EVENKEEL_ENDPOINT": local}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment of the program (-want +got):\n%s", diff)
	}
}

// TestDeadlineKillsTheGroup has a program whose child outlives it. Both hold
// the pipe "alive" open, which ends when both are dead.
func TestDeadlineKillsTheGroup(t *testing.T) {
	a, dir := script(t, local, `exec 3>"$1/alive"; sleep 120 & echo running >&3; wait`)
	alive := pipe(t, dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	deadline := errors.New("deadline of the test")
	dead := make(chan error, 1)
	go func() {
		lines := bufio.NewReader(alive())
		_, err := lines.ReadString('\n')
		cancel(deadline)
		_, ended := io.Copy(io.Discard, lines)
		dead <- errors.Join(err, ended)
	}()
	err := a.Isolate(ctx, incident.Isolation{Key: "k", Node: "n1"})
	if !errors.Is(err, deadline) || errors.Is(err, incident.ErrNotExecuted) {
		t.Errorf("Isolate() = %v, want the deadline, ambiguous", err)
	}
	checkDead(t, dead)
}

func TestExitWithChildLeftBehind(t *testing.T) {
	a, dir := script(t, local, `exec 3>"$1/alive"; sleep 120 & echo '{"schema":1,"outcome":"done"}'`)
	alive := pipe(t, dir)
	dead := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, alive())
		dead <- err
	}()
	err := a.Isolate(t.Context(), incident.Isolation{Key: "k", Node: "n1"})
	if err == nil || errors.Is(err, incident.ErrNotExecuted) {
		t.Errorf("Isolate() = %v, want an ambiguous error: the output was left open", err)
	}
	checkDead(t, dead)
}

// checkDead waits for the end of the pipe for less time than the child sleeps.
func checkDead(t *testing.T, dead <-chan error) {
	t.Helper()
	select {
	case err := <-dead:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("what the program started still runs")
	}
}

// pipe makes the named pipe "alive" in dir. The function opens it for reading,
// which waits for a writer.
func pipe(t *testing.T, dir string) func() io.Reader {
	t.Helper()
	path := filepath.Join(dir, "alive")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() io.Reader {
		f, err := os.Open(path)
		if err != nil {
			return iotest.ErrReader(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
}

func TestNoTurnIsNotExecuted(t *testing.T) {
	a, _ := script(t, local, says(`{"schema":1,"outcome":"done"}`))
	for range maxAtOnce {
		a.turn <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Isolate(ctx, incident.Isolation{Node: "n1"}); !errors.Is(err, incident.ErrNotExecuted) {
		t.Errorf("Isolate() without a turn = %v, want %v", err, incident.ErrNotExecuted)
	}
}

func TestValidate(t *testing.T) {
	valid := Config{Program: []string{"/usr/bin/schedulerctl"}, Endpoint: local, Timeout: time.Second}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"valid", func(c *Config) {}, ""},
		{"no endpoint", func(c *Config) { c.Endpoint = "" }, ""},
		{"no program", func(c *Config) { c.Program = nil }, "program: must name"},
		{"relative program", func(c *Config) { c.Program = []string{"schedulerctl"} }, "program: \"schedulerctl\" is not"},
		{"default timeout", func(c *Config) { c.Timeout = 0 }, ""},
		{"negative timeout", func(c *Config) { c.Timeout = -1 }, "timeout: must not be negative"},
		{"endpoint without scheme", func(c *Config) { c.Endpoint = "127.0.0.1:7000" }, "endpoint:"},
	} {
		c := valid
		test.change(&c)
		err := c.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Validate() = %v, want %q", test.name, err, test.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"outcome":"done","node":{"node":"n1","responding":"no"},"nodes":[{"node":"n1"},{"node":"n2"}],"job":{"job":"42","state":"running","nodes":["n1"]}}`))
	f.Add([]byte(`{"schema":1,"outcome":"refused","message":"\u0000"}`))
	f.Add([]byte(`{"schema":1e9,"outcome":[]}`))
	f.Add([]byte(strings.Repeat(`{"node":`, 20000)))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decode(body)
		if err != nil {
			if !cmp.Equal(a, answer{}) {
				t.Errorf("decode() = %+v with error %v, want nothing", a, err)
			}
			return
		}
		for _, v := range a.Nodes {
			switch v.Responding {
			case incident.RespondingYes, incident.RespondingNo, incident.RespondingUnknown:
			default:
				t.Errorf("responding = %q", v.Responding)
			}
		}
		if _, err := json.Marshal(a); err != nil {
			t.Errorf("the answer cannot be shown: %v", err)
		}
	})
}
