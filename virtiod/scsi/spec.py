"""What the SCSI standards number, for plain code: the enums of spec.pxd, which Cython makes IntEnums of.

A number without a name is a member too: Opcode(0xff).name is "255".
"""
