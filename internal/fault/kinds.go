package fault

// The kinds of the shipped catalogue.
const (
	XidOffTheBus     Kind = "nvidia.xid.79"
	XidDoubleBitECC  Kind = "nvidia.xid.48"
	XidMMUFault      Kind = "nvidia.xid.31"
	XidNVLink        Kind = "nvidia.xid.74"
	GPUThermal       Kind = "nvidia.gpu.thermal"
	GPUMissing       Kind = "nvidia.gpu.missing"
	DriverHung       Kind = "nvidia.driver.hung"
	NeuronHardware   Kind = "neuron.hw_error"
	EFAAdminQueue    Kind = "efa.admin_queue"
	LustreConnection Kind = "lustre.connection"
	DiskReadOnly     Kind = "host.disk.read_only"
	NodeSilent       Kind = "node.silent"
	AgentSilent      Kind = "evenkeel.agent.silent"
)

const (
	xidCatalog     = "NVIDIA Xid catalog (docs.nvidia.com/deploy/xid-errors)"
	kernelSource   = "kernel"
	deviceSource   = "device"
	remediatorSelf = "remediator"
)

// shipped is the table that a new kind is added to. A kind counts only with a
// fixture that raises it and one that clears it, in agent/health/testdata.
func shipped(t Timing) []Row {
	return []Row{
		{
			Kind: XidOffTheBus, Family: FamilyGPU, Severity: Fatal, Action: Reboot, Culprit: Hardware,
			Title:    "GPU has fallen off the bus",
			Detail:   "The driver cannot reach the GPU over PCIe. Every process on it is dead, and every collective it takes part in hangs until its time-out.",
			Confirm:  Confirm{Agree: []Kind{GPUMissing}, Window: t.ConfirmWindow},
			Subsumes: []Kind{GPUMissing, DriverHung, XidMMUFault, XidNVLink, XidDoubleBitECC, GPUThermal},
			Clears:   []Clear{ClearReboot, ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   xidCatalog + ": immediate action RESTART_BM (reboot the host), then CONTACT_SUPPORT.",
		},
		{
			Kind: XidDoubleBitECC, Family: FamilyMemory, Severity: Fatal, Action: ResetDevice, Culprit: Hardware,
			Title:    "Uncorrectable (double-bit) ECC error",
			Detail:   "Memory contents are lost; the GPU has to be reset before its results can be trusted again.",
			Subsumes: []Kind{XidMMUFault},
			Clears:   []Clear{ClearReset, ClearReboot, ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   xidCatalog + ": WORKFLOW_XID_48, RESET_GPU when alone.",
		},
		{
			Kind: XidMMUFault, Family: FamilyApplication, Severity: Warning, Action: RestartApp, Culprit: Application,
			Title:     "MMU fault raised by the application",
			Detail:    "An engine touched memory that is not mapped: in nearly all cases a bug of the program. The GPU itself stays usable.",
			Clears:    []Clear{ClearReading, ClearReset, ClearReboot, ClearReplaced},
			ClearHold: t.ClearHold,
			RaisedBy:  []string{kernelSource},
			Source:    xidCatalog + ": RESTART_APP; repeated on one GPU over several jobs, WORKFLOW_XID_31 asks for diagnostics.",
		},
		{
			Kind: XidNVLink, Family: FamilyFabric, Severity: Error, Action: ResetDevice, Culprit: Hardware,
			Title:     "NVLink error",
			Detail:    "A link between GPUs reported a fault. One node alone points to its links; several nodes at once point to the fabric or to a change.",
			Confirm:   Confirm{Count: 2, Window: t.ConfirmWindow},
			Clears:    []Clear{ClearReading, ClearReset, ClearReboot, ClearReplaced},
			ClearHold: t.ClearHold,
			RaisedBy:  []string{kernelSource},
			Source:    xidCatalog + ": WORKFLOW_NVLINK_ERR (Ampere, Hopper).",
		},
		{
			Kind: GPUThermal, Family: FamilyThermal, Severity: Warning, Action: Investigate, Culprit: Environment,
			Title:     "GPU at or above its slowdown temperature",
			Detail:    "The GPU lowers its clocks to protect itself; its rank slows the whole job.",
			Confirm:   Confirm{Hold: t.ConfirmHold},
			Clears:    []Clear{ClearReading, ClearReboot, ClearReplaced},
			ClearHold: t.ClearHold,
			RaisedBy:  []string{deviceSource},
			Source:    "NVML nvmlDeviceGetTemperatureThreshold, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: the threshold is read from the device.",
		},
		{
			Kind: GPUMissing, Family: FamilyGPU, Severity: Fatal, Action: Reboot, Culprit: Hardware,
			Title:     "GPU missing or lost",
			Detail:    "The driver says that a GPU is lost, or lists fewer GPUs than it did.",
			Confirm:   Confirm{Count: 2, Window: t.ConfirmWindow},
			Subsumes:  []Kind{DriverHung, GPUThermal},
			Clears:    []Clear{ClearReading, ClearReset, ClearReboot, ClearReplaced},
			ClearHold: t.ClearHold,
			RaisedBy:  []string{deviceSource},
			Source:    "NVML_ERROR_GPU_IS_LOST; HyperPod's health monitoring reboots a node on a GPU count mismatch (SageMaker HyperPod documentation).",
		},
		{
			Kind: DriverHung, Family: FamilyGPU, Severity: Error, Action: Reboot, Culprit: Hardware,
			Title:     "Driver call does not return",
			Detail:    "A call into the driver for this GPU missed its deadline; processes that touch the GPU hang in an uninterruptible state.",
			Confirm:   Confirm{Hold: t.ConfirmHold},
			Clears:    []Clear{ClearReading, ClearReset, ClearReboot, ClearReplaced},
			ClearHold: t.ClearHold,
			RaisedBy:  []string{deviceSource},
			Source:    "Xid 119/120 (GSP RPC time-out): each call blocks 6 s and a reset often hangs as well, so the host is rebooted.",
		},
		{
			Kind: NeuronHardware, Family: FamilyNeuron, Severity: Fatal, Action: Replace, Culprit: Hardware,
			Title:    "Neuron device reported an uncorrectable hardware error",
			Detail:   "SRAM, HBM, NeuronCore or DMA error that the Neuron runtime wrote to the kernel log, with the action it asks for.",
			Clears:   []Clear{ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   "AWS Neuron documentation, runtime troubleshooting, hardware errors: NEURON_HW_ERR with action=TERMINATE_INSTANCE.",
		},
		{
			Kind: EFAAdminQueue, Family: FamilyNetwork, Severity: Error, Action: Reboot, Culprit: Hardware,
			Title:    "EFA device does not complete admin commands",
			Detail:   "The admin queue of the network device is stuck or closed: new connections fail and collectives over it hang.",
			Confirm:  Confirm{Count: 2, Window: t.ConfirmWindow},
			Clears:   []Clear{ClearReboot, ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   "EFA driver (amzn/amzn-drivers, kernel/linux/efa/src/efa_com.c): admin completion time-out, admin queue closed, reset failed.",
		},
		{
			Kind: LustreConnection, Family: FamilyStorage, Severity: Warning, Action: Investigate, Culprit: Environment,
			Title:    "Lustre client lost a target",
			Detail:   "The file system's server is failing over, under maintenance, or has evicted this client. Checkpoints written now may be torn.",
			Clears:   []Clear{ClearKernel, ClearReboot, ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   "Lustre client messages (import.c): \"Connection to … was lost\", \"evicted by\", closed by \"Connection restored to\".",
		},
		{
			Kind: DiskReadOnly, Family: FamilyHost, Severity: Fatal, Action: Replace, Culprit: Hardware,
			Title:    "File system went read-only",
			Detail:   "The kernel remounted a file system read-only after an I/O error; jobs on the node fail in odd ways from then on.",
			Clears:   []Clear{ClearReplaced},
			RaisedBy: []string{kernelSource},
			Source:   "ext4 (fs/ext4/super.c): \"Remounting filesystem read-only\" under errors=remount-ro.",
		},
		{
			Kind: NodeSilent, Family: FamilyHost, Severity: Fatal, Action: Replace, Culprit: Hardware,
			Title:    "Node is silent",
			Detail:   "No report, and the orchestrator says the node does not respond, and HyperPod answered for the instance. Gathered by the remediator.",
			Clears:   []Clear{ClearReport, ClearReplaced},
			RaisedBy: []string{remediatorSelf},
			Source:   "Three independent views have to agree, because each alone is wrong often: a dead agent, a cut network, an API that lags by minutes.",
		},
		{
			Kind: AgentSilent, Family: FamilyAgent, Severity: Warning, Action: Investigate, Culprit: Evenkeel,
			Title:    "Agent is silent on a node that is well",
			Detail:   "No report, but the orchestrator says the node responds. The node is left alone; the agent needs attention.",
			Clears:   []Clear{ClearReport, ClearReplaced},
			RaisedBy: []string{remediatorSelf},
			Source:   "A monitoring failure is not a node failure.",
		},
	}
}
