package demo

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

const gpusPerNode = 2

// link, gpu, workload and devices are the simulated device file that the agent
// reads (--path.devices): what the hardware of the node is like at the moment.
type link struct {
	Link        int  `json:"link"`
	Up          bool `json:"up"`
	ErrorsTotal int  `json:"errors_total"`
}

type gpu struct {
	Index                      int     `json:"index"`
	UUID                       string  `json:"uuid"`
	PCI                        string  `json:"pci"`
	Model                      string  `json:"model"`
	TemperatureCelsius         float64 `json:"temperature_celsius"`
	SlowdownTemperatureCelsius float64 `json:"slowdown_temperature_celsius"`
	PowerWatts                 float64 `json:"power_watts"`
	SMClockHertz               float64 `json:"sm_clock_hertz"`
	MaxSMClockHertz            float64 `json:"max_sm_clock_hertz"`
	UtilizationRatio           float64 `json:"utilization_ratio"`
	MemoryUsedBytes            float64 `json:"memory_used_bytes"`
	MemoryTotalBytes           float64 `json:"memory_total_bytes"`
	ECCDoubleBitTotal          int     `json:"ecc_double_bit_total"`
	NVLinks                    []link  `json:"nvlinks"`
	Lost                       bool    `json:"lost"`
	Hang                       bool    `json:"hang"`
}

type workload struct {
	PID         int    `json:"pid"`
	DeviceUUID  string `json:"device_uuid"`
	DeviceIndex int    `json:"device_index"`
	Job         string `json:"job"`
	Rank        int    `json:"rank"`
	LocalRank   int    `json:"local_rank"`
}

type devices struct {
	GPUs      []gpu      `json:"gpus"`
	Processes []workload `json:"processes"`
}

// machine is the hardware behind one node name: a folder with the files that
// the node's agent reads instead of /proc, /sys, /dev/kmsg and the driver.
type machine struct {
	name string
	dir  string

	mu       sync.Mutex
	instance string
	boot     string
	sequence int
	devices  devices
}

// newMachine makes the folder and the first instance of the node.
func newMachine(dir, name, instance string) (*machine, error) {
	m := &machine{name: name, dir: filepath.Join(dir, name)}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	return m, m.install(instance)
}

// install puts a new instance under the node's name: other ids, other GPUs, an
// empty kernel log.
func (m *machine) install(instance string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instance, m.boot, m.sequence = instance, newUUID(), 0
	m.devices = devices{}
	for i := range gpusPerNode {
		m.devices.GPUs = append(m.devices.GPUs, gpu{
			Index: i, UUID: "GPU-" + newUUID(), PCI: fmt.Sprintf("0000:%02x:00", 0x53+0x10*i), Model: "NVIDIA H200",
			TemperatureCelsius: 52 + float64(4*i+int(m.boot[0]%4)), SlowdownTemperatureCelsius: 87,
			PowerWatts: 610, SMClockHertz: 1980e6, MaxSMClockHertz: 1980e6, UtilizationRatio: 0.97,
			MemoryUsedBytes: 120 << 30, MemoryTotalBytes: 141 << 30,
			NVLinks: []link{{Link: 0, Up: true}, {Link: 1, Up: true}},
		})
	}
	for path, content := range map[string]string{m.path("kmsg"): "", m.path("boot_id"): m.boot + "\n", m.path("instance_id"): instance + "\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("install instance on %s: %w", m.name, err)
		}
	}
	return m.writeDevices()
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// change edits the state of the node's devices.
func (m *machine) change(edit func(*devices)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	edit(&m.devices)
	return m.writeDevices()
}

// writeDevices replaces the device file in one step; m.mu is held.
func (m *machine) writeDevices() error {
	content, err := json.MarshalIndent(m.devices, "", " ")
	if err != nil {
		return fmt.Errorf("encode devices of %s: %w", m.name, err)
	}
	temporary := m.path("devices.json.tmp")
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return fmt.Errorf("write devices of %s: %w", m.name, err)
	}
	if err := os.Rename(temporary, m.path("devices.json")); err != nil {
		return fmt.Errorf("write devices of %s: %w", m.name, err)
	}
	return nil
}

// kernel appends records of the kernel's own facility to the node's kernel log,
// at level warning, in the form of /dev/kmsg.
func (m *machine) kernel(messages ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := os.OpenFile(m.path("kmsg"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write kernel log of %s: %w", m.name, err)
	}
	defer f.Close()
	for _, message := range messages {
		m.sequence++
		if _, err := fmt.Fprintf(f, "4,%d,%d,-;%s\n", m.sequence, 1_000_000+m.sequence, message); err != nil {
			return fmt.Errorf("write kernel log of %s: %w", m.name, err)
		}
	}
	return nil
}

// place says which ranks of a job compute on the node's GPUs; no job, no ranks.
func (m *machine) place(job string, firstRank int) error {
	return m.change(func(d *devices) {
		d.Processes = nil
		if job == "" {
			return
		}
		for i, g := range d.GPUs {
			d.Processes = append(d.Processes, workload{PID: 4000 + firstRank + i, DeviceUUID: g.UUID, DeviceIndex: i, Job: job, Rank: firstRank + i, LocalRank: i})
		}
	})
}

// gpuUUIDs lists the UUIDs of the node's GPUs by index.
func (m *machine) gpuUUIDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	uuids := make([]string, len(m.devices.GPUs))
	for i, g := range m.devices.GPUs {
		uuids[i] = g.UUID
	}
	return uuids
}

// ids gives the instance and boot id under which the node now runs.
func (m *machine) ids() (instance, boot string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instance, m.boot
}

// newUUID makes a random UUID (version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
