package hostagent

import "decaf/api/decafpb"

// Congestion states of a socket, include/uapi/linux/tcp.h.
const (
	caOpen     = 0
	caDisorder = 1
	caCWR      = 2
	caRecovery = 3
	caLoss     = 4
)

// kindByState names a retransmit by the socket's congestion state at the time.
// It holds in every TCP state: a socket that its owner has closed already
// (FIN_WAIT1, LAST_ACK, CLOSING) probes its tail and times out like one that is
// ESTABLISHED.
var kindByState = [...]decafpb.RetransmitKind{
	// Outside of recovery and loss only tcp_send_loss_probe sends again. It is
	// armed in Open and CWR (tcp_schedule_loss_probe), and the state may have
	// become Disorder by the time it fires.
	caOpen:     decafpb.RetransmitKind_RETRANSMIT_KIND_TLP,
	caDisorder: decafpb.RetransmitKind_RETRANSMIT_KIND_TLP,
	caCWR:      decafpb.RetransmitKind_RETRANSMIT_KIND_TLP,
	// Fast retransmit and RACK.
	caRecovery: decafpb.RetransmitKind_RETRANSMIT_KIND_FAST,
	// The timer fired; what follows until the window is acknowledged belongs to
	// it, with the count of consecutive timeouts back at 0.
	caLoss: decafpb.RetransmitKind_RETRANSMIT_KIND_RTO,
}

// kind tells why TCP sent e's buffer again.
func (e *event) kind() decafpb.RetransmitKind {
	switch {
	case e.what == whatSynAck, e.flags&(flagSYN|flagACK) == flagSYN|flagACK:
		return decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK
	case e.flags&flagSYN != 0:
		return decafpb.RetransmitKind_RETRANSMIT_KIND_SYN
	case int(e.caState) < len(kindByState):
		return kindByState[e.caState]
	}
	return decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED
}
