"""Events and anomalies from IMU and biosignal streams through the TAO network."""

__version__ = '0.1.0'
