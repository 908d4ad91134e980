package device

// Classes of loss: the tree of the IETF discard model
// (draft-ietf-opsawg-discardmodel-12), by its names. A class that is not known
// further is its parent.
const (
	ErrorsL2RxCRC        = "errors/l2/rx/crc-error"
	ErrorsL2RxMAC        = "errors/l2/rx/invalid-mac"
	ErrorsL2RxVLAN       = "errors/l2/rx/invalid-vlan"
	ErrorsL2RxFrame      = "errors/l2/rx/invalid-frame"
	ErrorsL2Tx           = "errors/l2/tx"
	ErrorsL3RxChecksum   = "errors/l3/rx/checksum-error"
	ErrorsL3RxMTU        = "errors/l3/rx/mtu-exceeded"
	ErrorsL3RxInvalid    = "errors/l3/rx/invalid-packet"
	ErrorsL3RxTTL        = "errors/l3/rx/ttl-expired"
	ErrorsL3RxNoRoute    = "errors/l3/rx/no-route"
	ErrorsL3RxSID        = "errors/l3/rx/invalid-sid"
	ErrorsL3RxLabel      = "errors/l3/rx/invalid-label"
	ErrorsL3Tx           = "errors/l3/tx"
	ErrorsInternalParity = "errors/internal/parity-error"
	PolicyL2ACL          = "policy/l2/acl"
	PolicyL3ACL          = "policy/l3/acl"
	PolicyL3Policer      = "policy/l3/policer"
	PolicyL3NullRoute    = "policy/l3/null-route"
	PolicyL3RPF          = "policy/l3/rpf"
	PolicyL3DDoS         = "policy/l3/ddos"
	NoBuffer             = "no-buffer"
	Unknown              = "unknown"
)

// Anomalies are of this module. They are no drops: their events count no packets,
// and the packets that they cost are in the classes above.
const (
	AnomalyRouteFlap = "anomaly/route-flap" // a route or neighbour changes again and again
	AnomalyLoop      = "anomaly/loop"       // packets go round in a circle
)

// Classes returns every class there is, in the order of the model.
func Classes() []string {
	return []string{
		ErrorsL2RxCRC, ErrorsL2RxMAC, ErrorsL2RxVLAN, ErrorsL2RxFrame, ErrorsL2Tx,
		ErrorsL3RxChecksum, ErrorsL3RxMTU, ErrorsL3RxInvalid, ErrorsL3RxTTL, ErrorsL3RxNoRoute,
		ErrorsL3RxSID, ErrorsL3RxLabel, ErrorsL3Tx, ErrorsInternalParity,
		PolicyL2ACL, PolicyL3ACL, PolicyL3Policer, PolicyL3NullRoute, PolicyL3RPF, PolicyL3DDoS,
		NoBuffer, Unknown,
		AnomalyRouteFlap, AnomalyLoop,
	}
}
