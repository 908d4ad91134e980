package device

// errno is an error number as the kernel gave it: Linux's, on whatever system
// it is looked at (include/uapi/asm-generic/errno.h, which every architecture
// whose kernel can run the drop program shares).
type errno uint16

const (
	errAccess      errno = 13
	errInvalid     errno = 22
	errNetUnreach  errno = 101
	errHostUnreach errno = 113
)
