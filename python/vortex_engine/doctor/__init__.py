"""Whether this machine and this installation can do the job: quick checks, and a deep half that runs the model."""

from vortex_engine.doctor.report import Check, DoctorReport, run_doctor

__all__ = ["Check", "DoctorReport", "run_doctor"]
