package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/internal/sim/engine"
	"github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/internal/sim/pki"
	"github.com/evenkeel/evenkeel/internal/sim/scheduler"
	"github.com/evenkeel/evenkeel/internal/sim/store"
)

// nodeNames are five nodes for the job and one spare, named as HyperPod on Slurm
// names them: after an address that a replacement keeps.
var nodeNames = []string{"ip-10-1-0-1", "ip-10-1-0-2", "ip-10-1-0-3", "ip-10-1-0-4", "ip-10-1-0-5", "ip-10-1-0-6"}

// jobNodes is how many of them the job takes.
const jobNodes = 5

// The local HyperPod server's times. On HyperPod a replacement takes 20 to 30
// minutes and the view lags by minutes.
const (
	replaceTakes = 4 * time.Second
	rebootTakes  = 2 * time.Second
	viewLag      = 1 * time.Second
)

// urls is where everything can be looked at.
type urls struct {
	hyperpod, scheduler, store, alertmanager, engine, collector, remediator string
	agents                                                                  map[string]string
}

// cluster is the simulated world and the real daemons in it.
type cluster struct {
	dir, bin    string
	checkpoints string
	tell        func(actor, format string, args ...any)
	authority   *pki.Authority
	urls        urls

	machines   map[string]*machine
	agents     map[string]*process
	collector  *process
	remediator *process

	hyperpod  *hyperpod.Server
	scheduler *scheduler.Scheduler
	store     *store.Store
	engine    *engine.Server
	training  *training

	operator *http.Client
	watch    *watcher

	closers []func()
	closing sync.Once
}

// later registers what has to be undone; close does it in reverse order.
func (c *cluster) later(f func()) { c.closers = append(c.closers, f) }

func (c *cluster) close() {
	c.closing.Do(func() {
		for i := len(c.closers) - 1; i >= 0; i-- {
			c.closers[i]()
		}
	})
}

// start brings the simulated world up, then the daemons in it, and returns when
// every node has reported and the job computes.
func start(ctx context.Context, o Options, dir string, tell func(string, string, ...any)) (_ *cluster, err error) {
	c := &cluster{
		dir: dir, bin: o.Bin, checkpoints: filepath.Join(dir, "checkpoints"), tell: tell,
		machines: map[string]*machine{}, agents: map[string]*process{}, urls: urls{agents: map[string]string{}},
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for _, step := range []func(context.Context) error{
		c.startPorts, c.startStore, c.startHyperPod, c.startMachines, c.startScheduler, c.startEngine, c.startDaemons, c.waitUntilWell,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// startPorts makes the folder and the certificates, and picks a port for each
// daemon: a daemon that is started again has to come back at the same address.
func (c *cluster) startPorts(context.Context) error {
	for _, dir := range []string{c.dir, c.checkpoints} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the demo's folder: %w", err)
		}
	}
	var err error
	if c.authority, err = pki.New(filepath.Join(c.dir, "tls")); err != nil {
		return err
	}
	ports, err := freePorts(2 + len(nodeNames))
	if err != nil {
		return err
	}
	c.urls.remediator = "https://" + ports[0]
	c.urls.collector = "https://" + ports[1]
	for i, name := range nodeNames {
		c.urls.agents[name] = "http://" + ports[2+i]
	}
	pair, err := c.authority.Client("operator")
	if err != nil {
		return err
	}
	config, err := c.authority.ClientTLS(pair)
	if err != nil {
		return err
	}
	c.operator = &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 5 * time.Second}
	return nil
}

func (c *cluster) startStore(context.Context) error {
	ruleFile, err := rules()
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "store")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the store's folder: %w", err)
	}
	if c.store, err = store.Open(store.Options{Dir: dir, Rules: [][]byte{ruleFile}}); err != nil {
		return err
	}
	c.later(func() { _ = c.store.Close() })
	if c.urls.store, err = c.serve(c.store.Handler()); err != nil {
		return err
	}
	c.urls.alertmanager, err = c.serve(c.store.AlertmanagerHandler())
	return err
}

func (c *cluster) startHyperPod(context.Context) error {
	nodes := make([]hyperpod.Node, len(nodeNames))
	for i := range nodeNames {
		nodes[i] = hyperpod.Node{IP: fmt.Sprintf("10.1.0.%d", i+1)}
	}
	var err error
	c.hyperpod, err = hyperpod.New(hyperpod.Options{
		Cluster: clusterName, Region: demoRegion, AccessKey: demoAccessKey, SecretKey: demoSecretKey,
		NodeRecovery: hyperpod.RecoveryNone, Nodes: nodes,
		ReplaceTakes: replaceTakes, RebootTakes: rebootTakes, ViewLag: viewLag,
		OnReplaced: func(old, replacement hyperpod.Instance) { c.install(old, replacement) },
	})
	if err != nil {
		return err
	}
	c.later(func() { _ = c.hyperpod.Close() })
	c.urls.hyperpod, err = c.hyperpod.Listen("127.0.0.1:0")
	return err
}

func (c *cluster) startMachines(context.Context) error {
	for _, instance := range c.hyperpod.Instances() {
		m, err := newMachine(filepath.Join(c.dir, "nodes"), instance.Node, instance.ID)
		if err != nil {
			return err
		}
		c.machines[instance.Node] = m
	}
	for _, name := range nodeNames {
		if c.machines[name] == nil {
			return fmt.Errorf("the HyperPod server has no node %s", name)
		}
	}
	return nil
}

func (c *cluster) startEngine(ctx context.Context) error {
	o := engine.DefaultOptions()
	o.Model = modelName
	c.engine = engine.New(o)
	c.later(inBackground(ctx, c.engine.Run))
	var err error
	if c.urls.engine, err = c.serve(c.engine.Handler()); err != nil {
		return err
	}
	targets := fmt.Sprintf(`[{"targets": [%q], "labels": {"model": %q, "replica": "r0"}}]`, c.urls.engine[len("http://"):], modelName)
	_, err = c.write("engines.json", targets)
	return err
}

// startDaemons starts the remediator, the collector and the agents as an
// operator would: with configuration files and certificates.
func (c *cluster) startDaemons(context.Context) error {
	policy, err := handsOff()
	if err != nil {
		return err
	}
	policyFile, err := c.write("hands-off.yaml", string(policy))
	if err != nil {
		return err
	}
	if c.remediator, err = c.daemon("evenkeel-remediator", "remediator", remediatorConfig(c, policyFile), c.urls.remediator,
		"--path.state="+filepath.Join(c.dir, "remediator")); err != nil {
		return err
	}
	pair, err := c.authority.Client("collector")
	if err != nil {
		return err
	}
	if c.collector, err = c.daemon("evenkeel-collector", "collector", collectorConfig(c, pair), c.urls.collector); err != nil {
		return err
	}
	for _, name := range nodeNames {
		if err := c.startAgent(name); err != nil {
			return err
		}
	}
	return nil
}

// daemon starts one daemon that serves HTTPS at the given URL.
func (c *cluster) daemon(binary, name, config, url string, args ...string) (*process, error) {
	configFile, err := c.write(name+".yaml", config)
	if err != nil {
		return nil, err
	}
	server, err := c.authority.Server(name)
	if err != nil {
		return nil, err
	}
	webConfig, err := c.authority.WebConfig(name, server)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: filepath.Join(c.dir, "logs", name+".log"), argv: append([]string{
		filepath.Join(c.bin, binary), "--config.file=" + configFile, "--web.listen-address=" + url[len("https://"):], "--web.config.file=" + webConfig,
	}, args...)}
	c.later(func() { p.stop(syscall.SIGTERM) })
	return p, p.start()
}

// startAgent starts the agent of a node, with the node's folder in place of
// /dev/kmsg, /proc and the driver.
func (c *cluster) startAgent(node string) error {
	pair, err := c.authority.Client(node)
	if err != nil {
		return err
	}
	configFile, err := c.write(filepath.Join("nodes", node, "agent.yaml"), agentConfig(node, c.urls.remediator, c.urls.store, c.authority.CAFile(), pair))
	if err != nil {
		return err
	}
	m := c.machines[node]
	p := &process{name: "agent " + node, log: filepath.Join(c.dir, "logs", node+".log"), argv: []string{
		filepath.Join(c.bin, "evenkeel-agent"), "--config.file=" + configFile, "--path.state=" + m.path("state"),
		"--path.kmsg=" + m.path("kmsg"), "--path.boot-id=" + m.path("boot_id"), "--path.instance-id=" + m.path("instance_id"),
		"--path.devices=" + m.path("devices.json"), "--web.listen-address=" + c.urls.agents[node][len("http://"):],
	}}
	c.agents[node] = p
	c.later(func() { p.stop(syscall.SIGTERM) })
	return p.start()
}

// install is what happens in the rack when HyperPod has replaced an instance:
// another machine, with an empty disk, boots under the old name.
func (c *cluster) install(old, replacement hyperpod.Instance) {
	node := replacement.Node
	c.tell("hyperpod", "%s: instance %s is replaced by %s", node, old.ID, replacement.ID)
	agent, m := c.agents[node], c.machines[node]
	agent.stop(syscall.SIGKILL)
	if err := errors.Join(os.RemoveAll(m.path("state")), m.install(replacement.ID), agent.start()); err != nil {
		c.tell("demo", "%s: %v", node, err)
		return
	}
	c.nodeIsUp(node)
}

// waitUntilWell returns when every node is known and well and the job computes.
func (c *cluster) waitUntilWell(ctx context.Context) error {
	c.watch = newWatcher(c.urls.remediator, c.operator, c.tell)
	c.later(inBackground(ctx, c.watch.run))
	if err := waitFor(ctx, 20*time.Second, "a report of every node", func() (bool, error) {
		nodes, _ := c.watch.snapshot()
		well := 0
		for _, n := range nodes.Nodes {
			if n.State == "ok" {
				well++
			}
		}
		return well == len(nodeNames), fmt.Errorf("%d of %d nodes are known to be well; logs are in %s", well, len(nodeNames), filepath.Join(c.dir, "logs"))
	}); err != nil {
		return err
	}
	c.tell("remediator", "all %d nodes report and are well", len(nodeNames))
	return nil
}

// serve serves the handler on a free loopback port until the cluster closes.
func (c *cluster) serve(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("serve on loopback: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = s.Serve(l) }() // ends with Close
	c.later(func() { _ = s.Close() })
	return "http://" + l.Addr().String(), nil
}

// The ports that daemons listen on lie below those that Linux gives to outgoing
// connections (from 32768), so that none of these takes the port of a daemon
// that is being started again.
const firstPort, lastPort = 20000, 32000

// taken are the ports given out by freePorts in this process.
var taken sync.Map

// freePorts finds loopback addresses that nothing listens on.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range 100 * n {
		if len(addresses) == n {
			return addresses, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		if _, used := taken.LoadOrStore(port, true); !used {
			addresses = append(addresses, address)
		}
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: there are none", n, firstPort, lastPort)
}

// inBackground runs f until the returned function is called, which returns when
// f has ended.
func inBackground(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	return func() { cancel(); running.Wait() }
}
