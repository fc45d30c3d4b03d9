package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/kernel"
	"github.com/evenkeel/evenkeel/agent/report"
	"github.com/evenkeel/evenkeel/agent/simdevice"
	"github.com/evenkeel/evenkeel/agent/snapshot"
	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpclient"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
)

// Paths says where the agent finds the node and keeps what it knows.
type Paths struct {
	State      string // folder
	Kmsg       string // kernel log
	BootID     string
	InstanceID string
	Devices    string // simulated devices; empty for none
}

// Options says what an agent needs.
type Options struct {
	Config Config
	Paths  Paths
	Logger *slog.Logger
}

// Agent is the daemon.
type Agent struct {
	config   Config
	logger   *slog.Logger
	node     *node
	sources  []source.Source
	snapshot *snapshot.Snapshot
	reporter *report.Reporter    // nil without report.url
	writer   *remotewrite.Writer // nil without remote_write.url

	saving      sync.Mutex // guards file
	file        *stateFile
	incarnation atomic.Int64

	// Each holds a token when there is something to look at.
	heard, ticked, unsaved chan struct{}
	metrics                *metrics
	// snapshotAt is when the last snapshot was taken; nil for never.
	snapshotAt atomic.Pointer[time.Time]
}

// New reads who the node is and what an earlier run knew, and sets everything up
// without starting it.
func New(o Options) (*Agent, error) { return newAgent(o, nodeSources) }

// newAgent is New with a choice of sources.
func newAgent(o Options, chooseSources func(o Options, boot, name string, resume map[string][]byte) (running []source.Source, absent []string)) (*Agent, error) {
	name, err := o.Config.node()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Paths.State, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	boot, err := readBootID(o.Paths.BootID)
	if err != nil {
		return nil, err
	}
	instance, err := readInstanceID(o.Paths.InstanceID)
	if err != nil {
		o.Logger.Warn("Reporting without an instance id; the remediator will not act on this node", "err", err)
	}
	a := &Agent{
		config:  o.Config,
		logger:  o.Logger,
		file:    &stateFile{path: filepath.Join(o.Paths.State, "state.json")},
		heard:   make(chan struct{}, 1),
		ticked:  make(chan struct{}, 1),
		unsaved: make(chan struct{}, 1),
	}
	identity := health.Identity{Node: name, InstanceID: instance, BootID: boot}
	engine := health.New(fault.NewCatalogue(o.Config.Timing), identity)
	resume, err := a.restore(engine)
	if err != nil {
		return nil, err
	}
	var running, absent []string
	a.sources, absent = chooseSources(o, boot, name, resume)
	for _, s := range a.sources {
		running = append(running, s.Name())
	}
	a.node = newNode(engine, o.Config.Sources.StaleAfter, running, absent)

	registry := prometheus.NewRegistry()
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"cluster": o.Config.Cluster, "node": name}, registry)
	labelled.MustRegister(
		versioncollector.NewCollector("evenkeel_agent"),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	a.metrics = newMetrics(labelled, a.node, running)
	if a.snapshot, err = snapshot.New(o.Config.Cluster, name, registry); err != nil {
		return nil, err
	}
	if o.Config.Report.URL != "" {
		a.reporter = a.newReporter(identity, labelled)
	}
	if o.Config.RemoteWrite.URL != "" {
		a.writer, err = remotewrite.New(remotewrite.Options{
			Config:     o.Config.RemoteWrite,
			Dir:        filepath.Join(o.Paths.State, "remote-write"),
			External:   map[string]string{"cluster": o.Config.Cluster, "node": name, "job": "evenkeel-agent", "instance": name},
			UserAgent:  "evenkeel-agent/" + version.Version,
			Registerer: labelled,
			Logger:     o.Logger,
		})
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}

// restore takes up what an earlier run left and begins a new incarnation, which
// is persisted before anything is said under it.
func (a *Agent) restore(engine *health.Engine) (resume map[string][]byte, err error) {
	last, err := a.file.load()
	if err != nil {
		// The state is a help, not a need: what is still wrong will be seen again.
		a.logger.Error("Starting without the state of the run before", "err", err)
	}
	now := time.Now()
	if len(last.Findings) > 0 {
		if err := engine.Restore(last.Findings, now); err != nil {
			a.logger.Error("Starting without the findings of the run before", "err", a.file.setAside(err))
			last.Resume = nil // read again what led to them
		}
	}
	incarnation, err := report.NextIncarnation(now, last.Incarnation)
	if err != nil {
		a.logger.Error("Starting below an impossible incarnation", "err", a.file.setAside(err))
		incarnation = now.UnixNano()
	}
	a.incarnation.Store(incarnation)
	if err := a.file.save(persisted{Incarnation: incarnation, Findings: engine.Save(), Resume: last.Resume}); err != nil {
		return nil, err
	}
	return last.Resume, nil
}

// nodeSources makes the sources of the node, and names those that it has not.
func nodeSources(o Options, boot, name string, resume map[string][]byte) (running []source.Source, absent []string) {
	if o.Paths.Devices == "" {
		absent = append(absent, simdevice.SourceName)
	} else {
		running = append(running, simdevice.New(simdevice.Config{
			Path: o.Paths.Devices, Node: name, Interval: o.Config.Sources.Device.Interval, Deadline: o.Config.Sources.Device.Deadline,
		}))
	}
	running = append(running, kernel.New(kernel.Config{
		Path: o.Paths.Kmsg, BootID: boot, Interval: o.Config.Sources.Kernel.Interval, Resume: resume[kernel.SourceName],
	}))
	return running, absent
}

func (a *Agent) newReporter(id health.Identity, reg prometheus.Registerer) *report.Reporter {
	return report.New(report.Options{
		URL:              a.config.Report.URL,
		Client:           httpclient.New("report", a.config.Report.TLS),
		Heartbeat:        a.config.Report.Heartbeat,
		Timeout:          a.config.Report.Timeout,
		Cluster:          a.config.Cluster,
		Node:             id.Node,
		InstanceID:       id.InstanceID,
		BootID:           id.BootID,
		AgentVersion:     version.Version,
		CatalogueVersion: fault.CatalogueVersion,
		Incarnation:      a.incarnation.Load(),
		State:            func() report.State { return a.node.report(time.Now()) },
		Delivered: func(ids []string) {
			a.node.delivered(ids)
			signal(a.unsaved)
		},
		Adopted: func(incarnation int64) {
			a.incarnation.Store(incarnation)
			a.keep()
		},
		Registerer: reg,
		Logger:     a.logger,
	})
}

// stopTimeout bounds how long a source that does not return can hold up the end.
const stopTimeout = 5 * time.Second

// Run works until ctx ends, saves what it knows, and returns nil.
func (a *Agent) Run(ctx context.Context) error {
	var work, sources sync.WaitGroup
	for _, s := range a.sources {
		sources.Go(func() { a.supervise(ctx, s) })
	}
	a.awaitSources(ctx)
	a.takeSnapshot(time.Now())
	work.Go(func() { a.tick(ctx) })
	work.Go(func() { a.takeSnapshots(ctx) })
	work.Go(func() { a.keepSaved(ctx) })
	if a.reporter != nil {
		work.Go(func() { a.reporter.Run(ctx) })
	}
	if a.writer != nil {
		work.Go(func() { a.writer.Run(ctx) })
	}
	// The service manager, if there is one, may start what depends on the agent.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.logger.Warn("The service manager could not be told of the start", "err", err)
	}
	<-ctx.Done()
	work.Wait()
	waitFor(&sources, stopTimeout)
	err := a.save()
	if a.writer != nil {
		err = errors.Join(err, a.writer.Close())
	}
	return err
}

// firstWord is how long the first report and snapshot wait for sources that have
// not answered yet, so that a start does not look like a loss of sight.
const firstWord = time.Second

func (a *Agent) awaitSources(ctx context.Context) {
	limit := time.After(firstWord)
	for len(a.node.unheard()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-limit:
			return
		case <-a.heard:
		}
	}
}

func waitFor(wg *sync.WaitGroup, limit time.Duration) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit): // it hangs in a call that nothing can end
	}
}

const (
	minRestart = time.Second
	maxRestart = 30 * time.Second
)

// supervise runs a source, and again whenever it fails.
func (a *Agent) supervise(ctx context.Context, s source.Source) {
	wait := minRestart
	for {
		begun := time.Now()
		err := s.Run(ctx, func(b source.Batch) { a.take(s.Name(), b) })
		if ctx.Err() != nil {
			return
		}
		why := "ended without a reason"
		if err != nil {
			why = err.Error()
		}
		if time.Since(begun) > maxRestart {
			wait = minRestart
		}
		a.metrics.restarts.WithLabelValues(s.Name()).Inc()
		a.logger.Error("A source failed", "source", s.Name(), "err", why, "again_in", wait)
		if a.node.fail(s.Name(), why, time.Now()) {
			a.changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRestart)
	}
}

// take takes a source's batch, and lets the world know.
func (a *Agent) take(name string, b source.Batch) {
	news, findings := a.node.take(name, b, time.Now())
	if news {
		a.changed()
	}
	if findings {
		signal(a.unsaved)
	}
	if len(b.Observations) > 0 {
		signal(a.ticked)
	}
	signal(a.heard)
}

// changed hastens the next report.
func (a *Agent) changed() {
	if a.reporter != nil {
		a.reporter.Changed()
	}
}

// minTick bounds how often time is let pass: no duration of the catalogue needs
// to be met more exactly.
const minTick = 50 * time.Millisecond

// tick lets time pass for the findings, at the moments at which that matters.
func (a *Agent) tick(ctx context.Context) {
	for {
		var due <-chan time.Time
		if next := a.node.next(); !next.IsZero() {
			due = time.After(max(time.Until(next), minTick))
		}
		select {
		case <-ctx.Done():
			return
		case <-a.ticked: // there may be an earlier moment now
			continue
		case <-due:
		}
		news, findings := a.node.tick(time.Now())
		if news {
			a.changed()
		}
		if findings {
			signal(a.unsaved)
		}
	}
}

// takeSnapshots renders and exports the node's state once per interval.
func (a *Agent) takeSnapshots(ctx context.Context) {
	ticker := time.NewTicker(a.config.Metrics.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			a.takeSnapshot(now)
		}
	}
}

func (a *Agent) takeSnapshot(now time.Time) {
	families, err := a.snapshot.Take(a.node.snapshot(now))
	if err != nil {
		a.metrics.snapshotErrors.Inc()
		a.logger.Error("Some metrics are left out", "err", err)
	}
	a.snapshotAt.Store(&now)
	if a.writer != nil {
		a.writer.Write(families, now)
	}
}

// saveInterval is how often progress without findings, such as the place in the
// kernel log, is saved: what is lost of it is read again.
const saveInterval = time.Minute

// keepSaved saves findings at once and other progress now and then.
func (a *Agent) keepSaved(ctx context.Context) {
	ticker := time.NewTicker(saveInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.unsaved:
		case <-ticker.C:
		}
		a.keep()
	}
}

// keep saves; that it could not is counted, and the next occasion tries again.
func (a *Agent) keep() {
	if err := a.save(); err != nil {
		a.metrics.saveErrors.Inc()
		a.logger.Error("A restart would not know the present findings", "err", err)
	}
}

func (a *Agent) save() error {
	a.saving.Lock()
	defer a.saving.Unlock()
	findings, resume := a.node.saved()
	return a.file.save(persisted{Incarnation: a.incarnation.Load(), Findings: findings, Resume: resume})
}

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
